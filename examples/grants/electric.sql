-- What Electric replicates, on Supabase: the rights, and no other table. It runs with
-- ELECTRIC_MANUAL_TABLE_PUBLISHING=true, and connects directly, never through a pooler, as a role
-- that may replicate and read this one table.
--
--   create role electric login replication bypassrls password '…';
--   grant usage on schema public to electric;
--   grant select on user_permissions to electric;
--
-- FULL, so that a row that goes is sent whole: a shape finds it by its user, and tells what it was.


alter table user_permissions replica identity full;

create publication electric_publication_default for table user_permissions;
