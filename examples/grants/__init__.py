"""A backend of companies, workspaces and table views, whose clients sync what they may see."""
