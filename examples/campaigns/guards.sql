-- The guards of campaigns: who may do what with tables that are not the mirror's.
--
-- Printed from the declarations; change those, not this file. Every statement can run again. The
-- tables must be there, and the model campaigns; no policy changes before all have been looked at.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);


select mirror.check_guarded('campaigns', 'public.character_sheets',
  '{"character_id": "bigint", "body": null}'
);
select mirror.add_index('public.character_sheets', 'character_id');


select mirror.check_guarded('campaigns', 'public.source_entries',
  '{"source_id": "bigint", "body": null}'
);
select mirror.add_index('public.source_entries', 'source_id');


select mirror.check_guarded('campaigns', 'public.campaign_log',
  '{"campaign_id": "bigint", "author_id": "uuid", "body": null, "expires_at": null}'
);
select mirror.add_index('public.campaign_log', 'campaign_id');


select mirror.check_guarded('campaigns', 'public.log_comments',
  '{"log_id": null, "author_id": "uuid", "body": null}'
);
select mirror.add_index('public.log_comments', 'log_id');
select mirror.add_index('public.log_comments', 'author_id');
select mirror.add_index('public.campaign_log', 'id');


select mirror.check_guarded('campaigns', 'public.comment_notes',
  '{"comment_id": null, "body": null}'
);
select mirror.add_index('public.comment_notes', 'comment_id');
select mirror.add_index('public.log_comments', 'id');


-- Those of an earlier version of these declarations.
select mirror.drop_guards('campaigns');


-- character_sheets: rows count for whoever belongs to their character.
alter table public.character_sheets enable row level security;
revoke all on public.character_sheets from public, anon, authenticated;
grant select, insert, update (body), delete
on public.character_sheets to authenticated;

create policy mirror_campaigns_read on public.character_sheets for select to authenticated
using (character_id = any((select mirror.my_characters('READER'))::bigint[]));

create policy mirror_campaigns_insert on public.character_sheets for insert to authenticated
with check (character_id = any((select mirror.my_characters('OWNER'))::bigint[]));

create policy mirror_campaigns_update on public.character_sheets for update to authenticated
using (character_id = any((select mirror.my_characters('OWNER'))::bigint[]))
with check (character_id = any((select mirror.my_characters('OWNER'))::bigint[]));

create policy mirror_campaigns_delete on public.character_sheets for delete to authenticated
using (character_id = any((select mirror.my_characters('OWNER'))::bigint[]));


-- source_entries: rows count for whoever belongs to their source.
alter table public.source_entries enable row level security;
revoke all on public.source_entries from public, anon, authenticated;
grant select, insert, update (body), delete
on public.source_entries to authenticated;

create policy mirror_campaigns_read on public.source_entries for select to authenticated
using (
  exists (
    select from public.sources as parent1
    where parent1.id = source_entries.source_id
    offset 0
  )
);

create policy mirror_campaigns_insert on public.source_entries for insert to authenticated
with check (source_id = any((select mirror.my_sources('OWNER'))::bigint[]));

create policy mirror_campaigns_update on public.source_entries for update to authenticated
using (source_id = any((select mirror.my_sources('OWNER'))::bigint[]))
with check (source_id = any((select mirror.my_sources('OWNER'))::bigint[]));

create policy mirror_campaigns_delete on public.source_entries for delete to authenticated
using (source_id = any((select mirror.my_sources('OWNER'))::bigint[]));


-- campaign_log: rows count for whoever belongs to their campaign.
alter table public.campaign_log enable row level security;
revoke all on public.campaign_log from public, anon, authenticated;
grant select, insert (campaign_id, body, expires_at), update (body), delete
on public.campaign_log to authenticated;

create policy mirror_campaigns_read on public.campaign_log for select to authenticated
using (
  campaign_id = any((select mirror.my_campaigns('SPECTATOR'))::bigint[])
  and (expires_at is null or expires_at > now())
);

create policy mirror_campaigns_insert on public.campaign_log for insert to authenticated
with check (
  author_id = (select auth.uid())
  and campaign_id = any((select mirror.my_campaigns('PLAYER'))::bigint[])
);

create policy mirror_campaigns_update on public.campaign_log for update to authenticated
using (
  author_id = (select auth.uid())
  and campaign_id = any((select mirror.my_campaigns('PLAYER'))::bigint[])
  and (expires_at is null or expires_at > now())
)
with check (
  author_id = (select auth.uid())
  and campaign_id = any((select mirror.my_campaigns('PLAYER'))::bigint[])
);

create policy mirror_campaigns_delete on public.campaign_log for delete to authenticated
using (
  (
    (
      author_id = (select auth.uid())
      and campaign_id = any((select mirror.my_campaigns('PLAYER'))::bigint[])
    )
    or campaign_id = any((select mirror.my_campaigns('DM'))::bigint[])
  )
  and (expires_at is null or expires_at > now())
);


-- log_comments: rows count for whoever belongs to their campaign_log.
alter table public.log_comments enable row level security;
revoke all on public.log_comments from public, anon, authenticated;
grant select, insert (log_id, body), delete
on public.log_comments to authenticated;

create policy mirror_campaigns_read on public.log_comments for select to authenticated
using (
  exists (
    select from public.campaign_log as parent1
    where parent1.id = log_comments.log_id
    offset 0
  )
);

create policy mirror_campaigns_insert on public.log_comments for insert to authenticated
with check (
  author_id = (select auth.uid())
  and exists (
    select from public.campaign_log as parent1
    where parent1.id = log_comments.log_id
    offset 0
  )
);

create policy mirror_campaigns_delete on public.log_comments for delete to authenticated
using (
  author_id = (select auth.uid())
  or exists (
    select from public.campaign_log as parent1
    where parent1.id = log_comments.log_id
      and parent1.campaign_id = any((select mirror.my_campaigns('DM'))::bigint[])
    offset 0
  )
);


-- comment_notes: rows count for whoever belongs to their log_comments.
alter table public.comment_notes enable row level security;
revoke all on public.comment_notes from public, anon, authenticated;
grant select, insert, update (body), delete
on public.comment_notes to authenticated;

create policy mirror_campaigns_read on public.comment_notes for select to authenticated
using (
  exists (
    select from public.log_comments as parent1
    where parent1.id = comment_notes.comment_id
      and exists (
        select from public.campaign_log as parent2
        where parent2.id = parent1.log_id
          and parent2.campaign_id = any((select mirror.my_campaigns('PLAYER'))::bigint[])
        offset 0
      )
    offset 0
  )
);

create policy mirror_campaigns_insert on public.comment_notes for insert to authenticated
with check (
  exists (
    select from public.log_comments as parent1
    where parent1.id = comment_notes.comment_id
      and exists (
        select from public.campaign_log as parent2
        where parent2.id = parent1.log_id
          and parent2.campaign_id = any((select mirror.my_campaigns('DM'))::bigint[])
        offset 0
      )
    offset 0
  )
);

create policy mirror_campaigns_update on public.comment_notes for update to authenticated
using (
  exists (
    select from public.log_comments as parent1
    where parent1.id = comment_notes.comment_id
      and exists (
        select from public.campaign_log as parent2
        where parent2.id = parent1.log_id
          and parent2.campaign_id = any((select mirror.my_campaigns('DM'))::bigint[])
        offset 0
      )
    offset 0
  )
)
with check (
  exists (
    select from public.log_comments as parent1
    where parent1.id = comment_notes.comment_id
      and exists (
        select from public.campaign_log as parent2
        where parent2.id = parent1.log_id
          and parent2.campaign_id = any((select mirror.my_campaigns('DM'))::bigint[])
        offset 0
      )
    offset 0
  )
);

create policy mirror_campaigns_delete on public.comment_notes for delete to authenticated
using (
  exists (
    select from public.log_comments as parent1
    where parent1.id = comment_notes.comment_id
      and exists (
        select from public.campaign_log as parent2
        where parent2.id = parent1.log_id
          and parent2.campaign_id = any((select mirror.my_campaigns('DM'))::bigint[])
        offset 0
      )
    offset 0
  )
);


-- Private channels. Realtime asks as the caller, with a row of the topic: may it be read, may it be
-- written. The row's own column, and text with text: a topic that is no id casts to nothing.
do $$
begin
  if to_regclass('realtime.messages') is null then
    raise notice 'realtime.messages does not exist, so no channel is guarded; once Realtime has '
      'made it, run `mirror migrate supabase --guards` again';
    return;
  end if;

  create policy mirror_campaigns_read on realtime.messages for select to authenticated
  using (
    (
      extension in ('broadcast', 'presence')
      and topic = any(array(
        select 'campaign:' || id from unnest(mirror.my_campaigns('SPECTATOR')) as id
      ))
    )
    or (extension = 'broadcast' and topic = 'user:' || (select auth.uid()))
  );

  create policy mirror_campaigns_insert on realtime.messages for insert to authenticated
  with check (
    extension in ('broadcast', 'presence')
    and topic = any(array(
      select 'campaign:' || id from unnest(mirror.my_campaigns('PLAYER')) as id
    ))
  );
end
$$;


-- Tells each user of what changed for them. Where Realtime's table is missing, or somebody holds
-- it, nobody is told: the write goes on, and waits for nothing.
create or replace function mirror.tell_campaigns() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  begin
    if to_regclass('realtime.messages') is null then
      return null;
    end if;
    lock table realtime.messages in row exclusive mode nowait;
    if tg_op = 'INSERT' then
      perform realtime.send(
        jsonb_build_object('campaign_id', n.id, 'role', 'DM'),
        'membership_granted', 'user:' || n.dm_id, true
      )
      from new_rows as n
      where n.dm_id is not null;
    elsif tg_op = 'DELETE' then
      perform realtime.send(
        jsonb_build_object('campaign_id', o.id, 'role', 'DM'),
        case when mirror.belongs_to_campaign(o.id, o.dm_id)
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o.dm_id, true
      )
      from old_rows as o
      where o.dm_id is not null;
    else
      perform realtime.send(
        jsonb_build_object('campaign_id', o.id, 'role', 'DM'),
        case when mirror.belongs_to_campaign(o.id, o.dm_id)
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o.dm_id, true
      )
      from old_rows as o
      join new_rows as n on o.id = n.id
      where (o.dm_id is distinct from n.dm_id) and o.dm_id is not null;
      perform realtime.send(
        jsonb_build_object('campaign_id', n.id, 'role', 'DM'),
        case
          when not was.active then 'membership_granted'
          when not remains.active then case when mirror.belongs_to_campaign(n.id, n.dm_id)
          then 'membership_changed' else 'membership_revoked' end
          else 'membership_changed'
        end, 'user:' || n.dm_id, true
      )
      from new_rows as n
      join old_rows as o on o.id = n.id
      cross join lateral (
        select coalesce(o.dm_id is not null and not (o.dm_id is distinct from n.dm_id), false)
      ) as was (active)
      cross join lateral (
        select coalesce(n.dm_id is not null, false)
      ) as remains (active)
      where was.active <> remains.active;
    end if;
  exception when others then
    raise warning 'nobody was told of changes in campaigns: % (%)', sqlerrm, sqlstate;
  end;
  return null;
end
$$;
revoke all on function mirror.tell_campaigns() from public, anon, authenticated, service_role;

create trigger mirror_campaigns_told_insert
after insert on public.campaigns referencing new table as new_rows
for each statement execute function mirror.tell_campaigns();

create trigger mirror_campaigns_told_update
after update on public.campaigns referencing old table as old_rows new table as new_rows
for each statement execute function mirror.tell_campaigns();

create trigger mirror_campaigns_told_delete
after delete on public.campaigns referencing old table as old_rows
for each statement execute function mirror.tell_campaigns();


-- Tells each user of what changed for them. Where Realtime's table is missing, or somebody holds
-- it, nobody is told: the write goes on, and waits for nothing.
create or replace function mirror.tell_campaign_members() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  begin
    if to_regclass('realtime.messages') is null then
      return null;
    end if;
    lock table realtime.messages in row exclusive mode nowait;
    if tg_op = 'INSERT' then
      perform realtime.send(
        jsonb_build_object('campaign_id', n.campaign_id, 'role', n.role),
        'membership_granted', 'user:' || n.user_id, true
      )
      from new_rows as n
      where (n.expires_at is null or n.expires_at > now()) and n.role in ('SPECTATOR', 'PLAYER', 'DM');
    elsif tg_op = 'DELETE' then
      perform realtime.send(
        jsonb_build_object('campaign_id', o.campaign_id, 'role', o.role),
        case when mirror.belongs_to_campaign(o.campaign_id, o.user_id)
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o.user_id, true
      )
      from old_rows as o
      where o.role in ('SPECTATOR', 'PLAYER', 'DM');
    else
      perform realtime.send(
        jsonb_build_object('campaign_id', n.campaign_id, 'role', n.role),
        case
          when not was.active then 'membership_granted'
          when not remains.active then case when mirror.belongs_to_campaign(n.campaign_id, n.user_id)
          then 'membership_changed' else 'membership_revoked' end
          else 'membership_changed'
        end, 'user:' || n.user_id, true
      )
      from new_rows as n
      join old_rows as o on o.campaign_id = n.campaign_id and o.user_id = n.user_id
      cross join lateral (
        select coalesce((o.expires_at is null or o.expires_at > now()) and o.role in ('SPECTATOR', 'PLAYER', 'DM'), false)
      ) as was (active)
      cross join lateral (
        select coalesce((n.expires_at is null or n.expires_at > now()) and n.role in ('SPECTATOR', 'PLAYER', 'DM'), false)
      ) as remains (active)
      where was.active or remains.active;
    end if;
  exception when others then
    raise warning 'nobody was told of changes in campaign_members: % (%)', sqlerrm, sqlstate;
  end;
  return null;
end
$$;
revoke all on function mirror.tell_campaign_members() from public, anon, authenticated, service_role;

create trigger mirror_campaigns_told_insert
after insert on public.campaign_members referencing new table as new_rows
for each statement execute function mirror.tell_campaign_members();

create trigger mirror_campaigns_told_update
after update on public.campaign_members referencing old table as old_rows new table as new_rows
for each statement execute function mirror.tell_campaign_members();

create trigger mirror_campaigns_told_delete
after delete on public.campaign_members referencing old table as old_rows
for each statement execute function mirror.tell_campaign_members();


-- Tells each user of what changed for them. Where Realtime's table is missing, or somebody holds
-- it, nobody is told: the write goes on, and waits for nothing.
create or replace function mirror.tell_campaign_characters() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  begin
    if to_regclass('realtime.messages') is null then
      return null;
    end if;
    lock table realtime.messages in row exclusive mode nowait;
    if tg_op = 'INSERT' then
      perform realtime.send(
        jsonb_build_object('campaign_id', n.campaign_id, 'role', 'PLAYER'),
        'membership_granted', 'user:' || n.owner_id, true
      )
      from new_rows as n
      where n.owner_id is not null;
      perform realtime.send(
        jsonb_build_object('character_id', n.character_id, 'role', 'READER'),
        'membership_granted', 'user:' || n.dm_id, true
      )
      from new_rows as n
      where n.dm_id is not null;
    elsif tg_op = 'DELETE' then
      perform realtime.send(
        jsonb_build_object('campaign_id', o.campaign_id, 'role', 'PLAYER'),
        case when mirror.belongs_to_campaign(o.campaign_id, o.owner_id)
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o.owner_id, true
      )
      from old_rows as o
      where o.owner_id is not null;
      perform realtime.send(
        jsonb_build_object('character_id', o.character_id, 'role', 'READER'),
        case when mirror.belongs_to_character(o.character_id, o.dm_id)
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o.dm_id, true
      )
      from old_rows as o
      where o.dm_id is not null;
    else
      perform realtime.send(
        jsonb_build_object('campaign_id', o.campaign_id, 'role', 'PLAYER'),
        case when mirror.belongs_to_campaign(o.campaign_id, o.owner_id)
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o.owner_id, true
      )
      from old_rows as o
      join new_rows as n on o.campaign_id = n.campaign_id and o.character_id = n.character_id
      where (o.owner_id is distinct from n.owner_id) and o.owner_id is not null;
      perform realtime.send(
        jsonb_build_object('campaign_id', n.campaign_id, 'role', 'PLAYER'),
        case
          when not was.active then 'membership_granted'
          when not remains.active then case when mirror.belongs_to_campaign(n.campaign_id, n.owner_id)
          then 'membership_changed' else 'membership_revoked' end
          else 'membership_changed'
        end, 'user:' || n.owner_id, true
      )
      from new_rows as n
      join old_rows as o on o.campaign_id = n.campaign_id and o.character_id = n.character_id
      cross join lateral (
        select coalesce(o.owner_id is not null and not (o.owner_id is distinct from n.owner_id), false)
      ) as was (active)
      cross join lateral (
        select coalesce(n.owner_id is not null, false)
      ) as remains (active)
      where was.active <> remains.active;
      perform realtime.send(
        jsonb_build_object('character_id', o.character_id, 'role', 'READER'),
        case when mirror.belongs_to_character(o.character_id, o.dm_id)
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o.dm_id, true
      )
      from old_rows as o
      join new_rows as n on o.campaign_id = n.campaign_id and o.character_id = n.character_id
      where (o.dm_id is distinct from n.dm_id) and o.dm_id is not null;
      perform realtime.send(
        jsonb_build_object('character_id', n.character_id, 'role', 'READER'),
        case
          when not was.active then 'membership_granted'
          when not remains.active then case when mirror.belongs_to_character(n.character_id, n.dm_id)
          then 'membership_changed' else 'membership_revoked' end
          else 'membership_changed'
        end, 'user:' || n.dm_id, true
      )
      from new_rows as n
      join old_rows as o on o.campaign_id = n.campaign_id and o.character_id = n.character_id
      cross join lateral (
        select coalesce(o.dm_id is not null and not (o.dm_id is distinct from n.dm_id), false)
      ) as was (active)
      cross join lateral (
        select coalesce(n.dm_id is not null, false)
      ) as remains (active)
      where was.active <> remains.active;
    end if;
  exception when others then
    raise warning 'nobody was told of changes in campaign_characters: % (%)', sqlerrm, sqlstate;
  end;
  return null;
end
$$;
revoke all on function mirror.tell_campaign_characters() from public, anon, authenticated, service_role;

create trigger mirror_campaigns_told_insert
after insert on public.campaign_characters referencing new table as new_rows
for each statement execute function mirror.tell_campaign_characters();

create trigger mirror_campaigns_told_update
after update on public.campaign_characters referencing old table as old_rows new table as new_rows
for each statement execute function mirror.tell_campaign_characters();

create trigger mirror_campaigns_told_delete
after delete on public.campaign_characters referencing old table as old_rows
for each statement execute function mirror.tell_campaign_characters();
