-- The roles of a Supabase project, once per cluster, run as its superuser supabase_admin.
-- Left out: the roles of services that have no stand-in here (pooler, dashboard).
-- Passwords are set by the caller.


-- The role of migrations and of the dashboard's SQL editor -------------------------------
-- Not a superuser: a migration that needs a superuser must fail here as it fails in a project.
create role postgres
    login createdb createrole replication bypassrls;

grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;

alter role postgres set search_path = "$user", public, extensions;


-- The roles that API requests run as -------------------------------------------------------
-- They inherit (Supabase changed that in 2023): if one of them is a member of another role, it has
-- that role's privileges without SET ROLE. Tests have to see that, too.
create role anon nologin;
create role authenticated nologin;
create role service_role nologin bypassrls;

-- With admin option, as in projects with PostgreSQL 16 or later: postgres may grant these roles.
grant anon, authenticated, service_role to postgres with admin option;


-- The role that PostgREST connects as ------------------------------------------------------
-- It can do nothing until it has switched to one of the three.
create role authenticator login noinherit;

grant anon, authenticated, service_role to authenticator;


-- The role that owns the schema auth -------------------------------------------------------
-- postgres is not a member of it, so it cannot change the objects in that schema.
create role supabase_auth_admin login noinherit;

alter role supabase_auth_admin set search_path = auth;


-- The roles that own Realtime's and Storage's tables -----------------------------------------
create role supabase_realtime_admin nologin noinherit;
create role supabase_storage_admin nologin noinherit;

-- In a project, the extension supautils lets postgres create and drop policies on a few of their
-- tables, but nothing else that only an owner may do. Here, postgres is a member of the owners.
grant supabase_realtime_admin, supabase_storage_admin to postgres;


-- Time limits --------------------------------------------------------------------------------
-- Settings of a role apply when it logs in, not on SET ROLE; PostgREST reads those of the
-- role it switches to and applies them itself. A direct test has to do the same.
alter role anon set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
