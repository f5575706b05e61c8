"""Bridges to other libraries: the only place that imports those that are extras."""
