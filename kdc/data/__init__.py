"""Sources (hub, files, embedded) -> splits of examples."""
