"""Runtimes: lower a module to files, load the files again. One runtime a file; a runtime knows no task."""
