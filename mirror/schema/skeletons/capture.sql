create or replace function {function}() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp{settings}
as $$
declare
  -- The columns of type character(n) among those that name keys and scopes.
  padded text[];
  odd boolean;
  virtual boolean;
begin
  if tg_op = 'TRUNCATE' then
    {record_everything}
  end if;

  -- A trial, which costs next to nothing: the table may have changed since this was printed, and
  -- the writer's transaction must not fail for that. It writes nothing, so that the block takes
  -- no transaction id.
  begin
    -- As mirror.check_source did when this was installed: the types may have changed since. And to
    -- read a virtual generated column of old and new rows yields null, or fails.
    select array_agg(attname::text) filter (
        where attname = any ({named}) and typoutput = 'bpcharout'::regproc
      ),
      bool_or(attname = any ({named}) and typcategory not in ('S', 'E') and typoutput not in (
        'int2out'::regproc, 'int4out'::regproc, 'int8out'::regproc, 'oidout'::regproc,
        'uuid_out'::regproc, 'charout'::regproc
      )),
      bool_or(attgenerated = 'v')
    into padded, odd, virtual
    from pg_attribute as a join pg_type as t on t.oid = a.atttypid
    where a.attrelid = tg_relid and a.attname = any ({columns});
    if virtual then
      raise exception 'a column that a mapping reads is now a virtual generated one';
    elsif odd then
      raise exception 'the type of a column that names rows is now one that no key can have';
    end if;
    {trial}
  exception when others then
    raise warning 'permission-mirror: % has changed, so each write counts as a change of all (%)',
      tg_relid::regclass, sqlerrm
      using hint = 'Correct the mappings, then run `mirror migrate primary --triggers`.';
    {record_everything}
  end;

  {record}
  return null;
end
$$;
comment on function {function}() is {comment};
revoke all on function {function}() from public;
