"""The pgteller service: a thin Falcon application over the functions of schema bank."""
