do $$
declare
  child regclass;
begin
  -- A statement that names a partition or an inheriting table fires no trigger of its parent.
  for child in
    with recursive below as (
      select i.inhrelid from pg_catalog.pg_inherits as i
      where i.inhparent = to_regclass({table})
      union
      select i.inhrelid from below as b
      join pg_catalog.pg_inherits as i on i.inhparent = b.inhrelid
    )
    select c.oid from below as b join pg_catalog.pg_class as c on c.oid = b.inhrelid
    where c.relkind in ('r', 'p')
  loop
    {triggers}
  end loop;
end
$$;
