"""The teacher: live or from the store, calibrated once, with planted faults where an experiment asks for them."""
