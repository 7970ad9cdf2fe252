-- The tables that PowerSync replicates from the primary. FOR ALL TABLES would also send it the
-- outbox, and every table that is created later.
--
-- PowerSync connects as a role of its own, with REPLICATION, and SELECT on these four tables.


create publication powersync for table users, roles, permissions, role_permissions;
