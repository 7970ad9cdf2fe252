-- The table that Electric replicates from Supabase: the rights, and no other. Start Electric with
-- ELECTRIC_MANUAL_TABLE_PUBLISHING=true. It connects directly, never through a pooler, as a role
-- that may replicate and may read this one table.
--
--   create role electric login replication bypassrls password '…';
--   grant usage on schema public to electric;
--   grant select on user_permissions to electric;
--
-- FULL: a changed or deleted row is sent with all of its old values. Electric needs the old user_id
-- to find the shape that loses the row.


alter table user_permissions replica identity full;

create publication electric_publication_default for table user_permissions;
