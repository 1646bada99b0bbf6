"""Tests of kdc; each folder mirrors one of `kdc/`."""
