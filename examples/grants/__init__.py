"""A backend of companies, workspaces and table views, and clients that sync their own rows."""
