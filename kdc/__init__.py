"""kdc turns a large model into a small, fast one that ships, and proves what it cost."""

__version__ = "0.1.0"
