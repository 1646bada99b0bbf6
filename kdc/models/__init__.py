"""Build teacher and student: from a folder, from a config, from the teacher's layers."""
