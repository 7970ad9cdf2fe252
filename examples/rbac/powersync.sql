-- What PowerSync replicates, on the primary: these tables and no other. FOR ALL TABLES would send
-- it the outbox, too, and whatever table is made next.
--
-- PowerSync connects as a role of its own: REPLICATION, and SELECT on these four tables.


create publication powersync for table users, roles, permissions, role_permissions;
