"""Weight inheritance: a student's initial weights as a least-squares fit to its teacher, in closed form."""
