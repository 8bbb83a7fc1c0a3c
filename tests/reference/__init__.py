"""Others' ways of doing what the service does, as plainly as they can be used."""
