"""The pictures of a report: inline SVG in the page's own colours, each with its numbers beside it."""
