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
