-- NOTIFY and PREPARE TRANSACTION exclude each other.
-- Every statement can run again.


-- NOTIFY makes commits wait for each other, so only while a relay listens. And a transaction that has
-- notified cannot be prepared, so never where transactions may be: there, a relay polls.
create or replace function mirror.announce_events() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('max_prepared_transactions') = '0'
      and exists (select from mirror.state where listened_until > now()) then
    perform pg_notify('mirror', '');
  end if;
  return null;
end
$$;
