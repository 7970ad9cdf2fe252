-- The doors. SECURITY DEFINER, because service_role itself has no right to the schema; arguments
-- are text, which every client of the REST API can send unchanged. Not in SQL: before PostgreSQL 18, the
-- plan of such a function is not kept.
create or replace function public.mirror_apply(request text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$ begin return mirror.apply(request::jsonb); end $$;

-- A worker over PostgreSQL calls it after mirror_apply, whose commit did not wait for the disk.
create or replace function public.mirror_flush() returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$ begin perform mirror.flush(); end $$;

create or replace function public.mirror_open_scopes(request text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$ begin return mirror.open_scopes(request::jsonb); end $$;

create or replace function public.mirror_withhold(request text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$ begin return mirror.withhold(request::jsonb); end $$;

create or replace function public.mirror_step(request text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$ begin return mirror.step(request::jsonb); end $$;

create or replace function public.mirror_digest(request text) returns jsonb
language plpgsql security definer stable set search_path = pg_catalog, pg_temp
as $$ begin return mirror.digest(request::jsonb); end $$;

create or replace function public.mirror_survey(request text) returns jsonb
language plpgsql security definer stable set search_path = pg_catalog, pg_temp
as $$ begin return mirror.survey(request::jsonb); end $$;

create or replace function public.mirror_rows(request text) returns jsonb
language plpgsql security definer stable set search_path = pg_catalog, pg_temp
as $$ begin return mirror.rows(request::jsonb); end $$;

create or replace function public.mirror_expired(request text) returns jsonb
language plpgsql security definer stable set search_path = pg_catalog, pg_temp
as $$ begin return mirror.expired(request::jsonb); end $$;

-- The timeout is for PostgREST, which sets it for the call: looking for what is old may take longer
-- than API sessions otherwise get.
create or replace function public.mirror_purge(age text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp set statement_timeout = '55s'
as $$ begin return mirror.purge(age::interval); end $$;

create or replace function public.mirror_rebase(identity text, epoch text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$ begin perform mirror.rebase(identity, epoch::integer); end $$;

create or replace function public.mirror_describe() returns jsonb
language plpgsql security definer stable set search_path = pg_catalog, pg_temp
as $$ begin return mirror.describe(); end $$;

create or replace function public.mirror_trace(request text) returns jsonb
language plpgsql security definer stable set search_path = pg_catalog, pg_temp
as $$ begin return mirror.trace(request::jsonb); end $$;
