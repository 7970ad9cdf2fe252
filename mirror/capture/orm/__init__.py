"""ORM capture: events from what SQLAlchemy sessions flush and execute."""
