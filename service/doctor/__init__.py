"""`lorehouse doctor`: whether it would run here, what would, and what to do if not.

What is looked at (`machine`, `places`) is told as facts; what follows from them (`judging`,
`running`) is decided without looking at anything.
"""
