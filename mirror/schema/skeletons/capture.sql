create or replace function {function}() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'TRUNCATE' then
    {record_everything}
  end if;

  -- A trial, which costs next to nothing: the table may have changed since this was printed, and
  -- the writer's transaction must not fail for that. It writes nothing, so that the block takes
  -- no transaction id.
  begin
    -- To read a virtual generated column of old and new rows yields null, or fails.
    if exists (
      select from pg_attribute
      where attrelid = tg_relid and attgenerated = 'v' and attname = any ({columns})
    ) then
      raise exception 'a column that a mapping reads is now a virtual generated one';
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
