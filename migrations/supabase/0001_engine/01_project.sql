-- The engine in the target: what every permission model needs, whatever its tables.
--
-- It lives in the private schema `mirror`, which the API does not expose; the thin functions
-- public.mirror_* are the only way in, for service_role and mirror_writer. Every statement can run
-- again.


-- Refuse a database that is not a Supabase project, before anything is created.
do $$
begin
  if to_regprocedure('auth.uid()') is null
     or (select count(*) from pg_roles where rolname in ('anon', 'authenticated', 'service_role')) < 3
  then
    raise exception 'this database is no Supabase project: auth.uid() or its roles are missing'
      using errcode = 'MR010',
        hint = 'Point SUPABASE_DB_URL at the project''s own database, as role postgres.';
  end if;
end
$$;


-- The role that may mirror, and nothing else: a token of this role is worth less than service_role's
-- key. The API's login has to be a member of the roles that tokens name. Roles belong to the whole
-- server, where another database may be doing the same.
do $$
begin
  if not exists (select from pg_roles where rolname = 'mirror_writer') then
    create role mirror_writer nologin;
  end if;
exception when duplicate_object or unique_violation then
  null;
end
$$;
do $$
begin
  if exists (select from pg_roles where rolname = 'authenticator')
     and not pg_has_role('authenticator', 'mirror_writer', 'member')
  then
    grant mirror_writer to authenticator;
  end if;
end
$$;


create schema if not exists mirror;
revoke all on schema mirror from public, anon, service_role, mirror_writer;
-- Policies call helper functions as the signed-in user.
grant usage on schema mirror to authenticated;
