-- A writer may put an event into the outbox, and nothing about when it was recorded or by which
-- transaction: a wrong value there could hide an event from every claim.
-- Every statement can run again.


-- A role that may insert into the table as a whole may now insert into these columns.
do $$
declare
  writer record;
begin
  for writer in
    select distinct g.grantee, coalesce(format('%I', r.rolname), 'public') as name
    from pg_class as c
    cross join lateral aclexplode(c.relacl) as g
    left join pg_roles as r on r.oid = g.grantee
    where c.oid = 'mirror.outbox'::regclass and g.privilege_type = 'INSERT'
      and g.grantee <> c.relowner
  loop
    -- CASCADE: a role with the grant option may have granted it to others, who are in this list.
    execute format('revoke insert on mirror.outbox from %s cascade', writer.name);
    execute format('grant insert (lane, mapping, reference, key) on mirror.outbox to %s', writer.name);
  end loop;
end
$$;


-- Rows that are there already are corrected. A claim would never find those of such a transaction;
-- they get new ids, because theirs could be there twice.
update mirror.outbox
set recorded_at = least(greatest(recorded_at, '2000-01-01 UTC'), '9999-01-01 UTC')
where recorded_at not between '2000-01-01 UTC' and '9999-01-01 UTC';
update mirror.outbox set transaction_id = 0, id = default where transaction_id < 0;

do $$
begin
  if not exists (
    select from pg_constraint
    where conrelid = 'mirror.outbox'::regclass and conname = 'outbox_bounds'
  ) then
    alter table mirror.outbox add constraint outbox_bounds
    check (recorded_at between '2000-01-01 UTC' and '9999-01-01 UTC' and transaction_id >= 0);
  end if;
end
$$;
