-- What a Supabase project's database holds before its first migration. Run as the
-- superuser supabase_admin in a database owned by postgres, after supabase_roles.sql.
-- Owning the database makes postgres the owner of the schema public, by pg_database_owner.


-- Schema public ------------------------------------------------------------------------------
grant usage on schema public to postgres, anon, authenticated, service_role;

-- Every table, sequence and function made here is open to the API at birth, and row-level
-- security is all that stands before its rows. Without these grants a test that anon cannot
-- write would pass no matter what the migrations forgot to revoke.
alter default privileges for role postgres, supabase_admin in schema public
    grant all on tables to postgres, anon, authenticated, service_role;
alter default privileges for role postgres, supabase_admin in schema public
    grant all on sequences to postgres, anon, authenticated, service_role;
alter default privileges for role postgres, supabase_admin in schema public
    grant all on functions to postgres, anon, authenticated, service_role;


-- Schema extensions --------------------------------------------------------------------------
create schema extensions;

grant usage on schema extensions to anon, authenticated, service_role;
grant all on schema extensions to postgres;


-- Schema auth --------------------------------------------------------------------------------
create schema auth authorization supabase_auth_admin;

grant usage on schema auth to postgres, anon, authenticated, service_role;

-- Its owner makes what is in it, so that nothing there belongs to the superuser.
set local role supabase_auth_admin;

-- The columns that applications refer to; the service's own are left out.
create table auth.users (
    id uuid primary key,
    email text,
    raw_user_meta_data jsonb,
    created_at timestamptz default now()
);

-- No policy: the API's roles read nobody, even after a careless grant.
alter table auth.users enable row level security;

-- References, too, for foreign keys; select can be passed on.
grant all on auth.users to postgres;
grant select on auth.users to postgres with grant option;

-- The verified token of the request, or null outside of one. PostgREST sets one variable
-- with all the claims. Once it has been set in a session it reads as '' in later
-- transactions, not as null, hence nullif.
create function auth.jwt() returns jsonb
    language sql stable
    return coalesce(
        nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')
    )::jsonb;

-- Old versions of PostgREST set one variable per claim; it goes first where it exists.
create function auth.uid() returns uuid
    language sql stable
    return coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        auth.jwt() ->> 'sub'
    )::uuid;

create function auth.role() returns text
    language sql stable
    return coalesce(
        nullif(current_setting('request.jwt.claim.role', true), ''),
        auth.jwt() ->> 'role'
    );

create function auth.email() returns text
    language sql stable
    return coalesce(
        nullif(current_setting('request.jwt.claim.email', true), ''),
        auth.jwt() ->> 'email'
    );

reset role;


-- Realtime -----------------------------------------------------------------------------------
-- Tables reach postgres_changes by being added here. The schema realtime comes apart, in
-- supabase_services.sql: code that uses it has to cope with plain PostgreSQL.
create publication supabase_realtime;

alter publication supabase_realtime owner to postgres;
