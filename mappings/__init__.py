"""The permission models this repository declares, one module each."""
