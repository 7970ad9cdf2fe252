-- The content of a Supabase project's database before its first migration. Run as the
-- superuser supabase_admin in a database owned by postgres, after supabase_roles.sql.
-- Owning the database makes postgres the owner of the schema public, by pg_database_owner.


-- Schema public ------------------------------------------------------------------------------
grant usage on schema public to postgres, anon, authenticated, service_role;

-- The API's roles have all privileges on every new table, sequence and function, so only row-level
-- security protects the rows. Without these grants, a test that anon cannot write would pass even
-- if the migrations forgot to revoke them.
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

-- The owner of the schema creates its objects, so that none of them belongs to the superuser.
set local role supabase_auth_admin;

-- Only the columns that applications refer to; those that only the service uses are left out.
create table auth.users (
    id uuid primary key,
    email text,
    raw_user_meta_data jsonb,
    created_at timestamptz default now()
);

-- No policy: the API's roles can read no row, even if a grant is given by mistake.
alter table auth.users enable row level security;

-- All includes REFERENCES, which foreign keys need. postgres may grant SELECT to other roles.
grant all on auth.users to postgres;
grant select on auth.users to postgres with grant option;

-- The verified token of the request; null outside of a request. PostgREST sets one variable
-- with all the claims. After it was set once in a session, it is '' in later transactions,
-- not null; hence nullif.
create function auth.jwt() returns jsonb
    language sql stable
    return coalesce(
        nullif(current_setting('request.jwt.claim', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')
    )::jsonb;

-- Old versions of PostgREST set one variable per claim; if it is set, it takes precedence.
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
-- Changes of the tables in this publication are sent to subscribers of postgres_changes.
-- supabase_services.sql creates the schema realtime separately: code that uses it must also work
-- in a database without it.
create publication supabase_realtime;

alter publication supabase_realtime owner to postgres;
