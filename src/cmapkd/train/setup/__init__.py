"""Everything that a run is built from: the plan, the teacher, the student and its start, the first measurements."""
