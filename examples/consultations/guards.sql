-- The guards of consultations: who may do what with tables that are not the mirror's.
--
-- Printed from the declarations; change those, not this file. Every statement can run again. The
-- tables must be there, and the model consultations; no policy changes before all have been looked at.


-- Workers stand aside meanwhile: a batch in flight and these statements could deadlock.
select pg_advisory_xact_lock(1835627122, 1);


select mirror.check_guarded('consultations', 'public.messages',
  '{"consultationId": "uuid", "senderId": "uuid", "id": null, "content": null, "type": null, "deletedAt": null, "deliveredAt": null, "readAt": null}'
);
select mirror.add_index('public.messages', 'consultationId');


select mirror.check_guarded('consultations', 'public.message_attachments',
  '{"messageId": null, "senderId": "uuid", "id": null, "consultationId": null, "fileName": null, "fileUrl": null, "fileSize": null, "mimeType": null}'
);
select mirror.add_index('public.message_attachments', 'messageId');
select mirror.add_index('public.messages', 'id');


-- Those of an earlier version of these declarations.
select mirror.drop_guards('consultations');


-- messages: rows count for whoever belongs to their consultation.
alter table public.messages enable row level security;
revoke all on public.messages from public, anon, authenticated;
grant select, insert (id, "consultationId", content, type), update (content, "deletedAt", "deliveredAt", "readAt")
on public.messages to authenticated;

create policy mirror_consultations_read on public.messages for select to authenticated
using (
  "consultationId" = any((select mirror.my_consultations('CLIENT'))::uuid[])
  and ("deletedAt" is null or "senderId" = (select auth.uid()))
);

create policy mirror_consultations_insert on public.messages for insert to authenticated
with check (
  "senderId" = (select auth.uid())
  and "consultationId" = any((select mirror.my_consultations('CLIENT'))::uuid[])
);

create policy mirror_consultations_update on public.messages for update to authenticated
using (
  (
    (
      "senderId" = (select auth.uid())
      and "consultationId" = any((select mirror.my_consultations('CLIENT'))::uuid[])
    )
    or (
      ("senderId" = (select auth.uid())) is not true
      and "consultationId" = any((select mirror.my_consultations('CLIENT'))::uuid[])
    )
  )
  and "deletedAt" is null
)
with check (
  (
    "senderId" = (select auth.uid())
    and "consultationId" = any((select mirror.my_consultations('CLIENT'))::uuid[])
  )
  or (
    ("senderId" = (select auth.uid())) is not true
    and "consultationId" = any((select mirror.my_consultations('CLIENT'))::uuid[])
  )
);


-- messages: a policy judges rows, this their columns. After all other triggers, so that it sees what
-- is written.
create or replace function mirror.columns_consultations_messages() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
  -- Through a partition, the table's.
  if not row_security_active(coalesce(pg_partition_root(tg_relid), tg_relid)) then
    return null;
  end if;
  if record_image_ne(row(new.content, new."deletedAt"), row(old.content, old."deletedAt"))
    and not (
      exists (
        select from (select old.*) as messages
        where "senderId" = (select auth.uid())
          and "consultationId" = any((select mirror.my_consultations('CLIENT'))::uuid[])
      )
      and exists (
        select from (select new.*) as messages
        where "senderId" = (select auth.uid())
          and "consultationId" = any((select mirror.my_consultations('CLIENT'))::uuid[])
      )
    )
  then
    raise exception using errcode = 'insufficient_privilege',
      message = 'you may not change content, "deletedAt" of this row of messages';
  end if;
  if record_image_ne(row(new."deliveredAt", new."readAt"), row(old."deliveredAt", old."readAt"))
    and not (
      exists (
        select from (select old.*) as messages
        where ("senderId" = (select auth.uid())) is not true
          and "consultationId" = any((select mirror.my_consultations('CLIENT'))::uuid[])
      )
      and exists (
        select from (select new.*) as messages
        where ("senderId" = (select auth.uid())) is not true
          and "consultationId" = any((select mirror.my_consultations('CLIENT'))::uuid[])
      )
    )
  then
    raise exception using errcode = 'insufficient_privilege',
      message = 'you may not change "deliveredAt", "readAt" of this row of messages';
  end if;
  return null;
end
$$;
revoke all on function mirror.columns_consultations_messages() from public, anon, authenticated, service_role;

create trigger mirror_consultations_columns
after update on public.messages
for each row execute function mirror.columns_consultations_messages();


-- message_attachments: rows count for whoever belongs to their messages.
alter table public.message_attachments enable row level security;
revoke all on public.message_attachments from public, anon, authenticated;
grant select, insert (id, "messageId", "consultationId", "fileName", "fileUrl", "fileSize", "mimeType"), delete
on public.message_attachments to authenticated;

create policy mirror_consultations_read on public.message_attachments for select to authenticated
using (
  exists (
    select from public.messages as parent1
    where parent1.id = message_attachments."messageId"
    offset 0
  )
);

create policy mirror_consultations_insert on public.message_attachments for insert to authenticated
with check (
  "senderId" = (select auth.uid())
  and exists (
    select from public.messages as parent1
    where parent1.id = message_attachments."messageId"
    offset 0
  )
);

create policy mirror_consultations_delete on public.message_attachments for delete to authenticated
using (
  "senderId" = (select auth.uid())
  and exists (
    select from public.messages as parent1
    where parent1.id = message_attachments."messageId"
    offset 0
  )
);


-- Files. Text with text: a path that is no id casts to nothing.
do $$
begin
  if to_regclass('storage.objects') is null then
    raise notice 'storage.objects does not exist, so no folder is guarded; once Storage has '
      'made it, run `mirror migrate supabase --guards` again';
    return;
  end if;

  create policy mirror_consultations_read on storage.objects for select to authenticated
  using (
    bucket_id = 'message-attachments'
    and split_part(name, '/', 1) = 'consultations'
    and split_part(name, '/', 4) <> ''
    and split_part(name, '/', 2) = any(array(
      select id::text from unnest(mirror.my_consultations('CLIENT')) as id
    ))
  );

  create policy mirror_consultations_insert on storage.objects for insert to authenticated
  with check (
    bucket_id = 'message-attachments'
    and split_part(name, '/', 1) = 'consultations'
    and split_part(name, '/', 4) <> ''
    and split_part(name, '/', 3) = (select auth.uid())::text
    and split_part(name, '/', 2) = any(array(
      select id::text from unnest(mirror.my_consultations('CLIENT')) as id
    ))
  );

  create policy mirror_consultations_delete on storage.objects for delete to authenticated
  using (
    bucket_id = 'message-attachments'
    and split_part(name, '/', 1) = 'consultations'
    and split_part(name, '/', 4) <> ''
    and split_part(name, '/', 3) = (select auth.uid())::text
    and split_part(name, '/', 2) = any(array(
      select id::text from unnest(mirror.my_consultations('CLIENT')) as id
    ))
  );
end
$$;


-- Private channels. Realtime asks as the caller, with a row of the topic: may it be read, may it be
-- written. The row's own column, and text with text: a topic that is no id casts to nothing.
do $$
begin
  if to_regclass('realtime.messages') is null then
    raise notice 'realtime.messages does not exist, so no channel is guarded; once Realtime has '
      'made it, run `mirror migrate supabase --guards` again';
    return;
  end if;

  create policy mirror_consultations_read on realtime.messages for select to authenticated
  using (
    (
      extension in ('broadcast', 'presence')
      and topic = any(array(
        select 'consultation:' || id from unnest(mirror.my_consultations('CLIENT')) as id
      ))
    )
    or (extension = 'broadcast' and topic = 'user:' || (select auth.uid()))
  );

  create policy mirror_consultations_insert on realtime.messages for insert to authenticated
  with check (
    extension in ('broadcast', 'presence')
    and topic = any(array(
      select 'consultation:' || id from unnest(mirror.my_consultations('CLIENT')) as id
    ))
  );
end
$$;


-- Tells each user of what changed for them. Where Realtime's table is missing, or somebody holds
-- it, nobody is told: the write goes on, and waits for nothing.
create or replace function mirror.tell_consultations() returns trigger
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
        jsonb_build_object('consultation_id', n.id, 'role', 'CLIENT'),
        'membership_granted', 'user:' || n."clientId", true
      )
      from new_rows as n
      where n."clientId" is not null;
      perform realtime.send(
        jsonb_build_object('consultation_id', n.id, 'role', 'LAWYER'),
        'membership_granted', 'user:' || n."lawyerId", true
      )
      from new_rows as n
      where n."lawyerId" is not null;
    elsif tg_op = 'DELETE' then
      perform realtime.send(
        jsonb_build_object('consultation_id', o.id, 'role', 'CLIENT'),
        case when mirror.belongs_to_consultation(o.id, o."clientId")
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o."clientId", true
      )
      from old_rows as o
      where o."clientId" is not null;
      perform realtime.send(
        jsonb_build_object('consultation_id', o.id, 'role', 'LAWYER'),
        case when mirror.belongs_to_consultation(o.id, o."lawyerId")
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o."lawyerId", true
      )
      from old_rows as o
      where o."lawyerId" is not null;
    else
      perform realtime.send(
        jsonb_build_object('consultation_id', o.id, 'role', 'CLIENT'),
        case when mirror.belongs_to_consultation(o.id, o."clientId")
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o."clientId", true
      )
      from old_rows as o
      join new_rows as n on o.id = n.id
      where (o."clientId" is distinct from n."clientId") and o."clientId" is not null;
      perform realtime.send(
        jsonb_build_object('consultation_id', n.id, 'role', 'CLIENT'),
        case
          when not was.active then 'membership_granted'
          when not remains.active then case when mirror.belongs_to_consultation(n.id, n."clientId")
          then 'membership_changed' else 'membership_revoked' end
          else 'membership_changed'
        end, 'user:' || n."clientId", true
      )
      from new_rows as n
      join old_rows as o on o.id = n.id
      cross join lateral (
        select coalesce(o."clientId" is not null and not (o."clientId" is distinct from n."clientId"), false)
      ) as was (active)
      cross join lateral (
        select coalesce(n."clientId" is not null, false)
      ) as remains (active)
      where was.active <> remains.active;
      perform realtime.send(
        jsonb_build_object('consultation_id', o.id, 'role', 'LAWYER'),
        case when mirror.belongs_to_consultation(o.id, o."lawyerId")
          then 'membership_changed' else 'membership_revoked' end, 'user:' || o."lawyerId", true
      )
      from old_rows as o
      join new_rows as n on o.id = n.id
      where (o."lawyerId" is distinct from n."lawyerId") and o."lawyerId" is not null;
      perform realtime.send(
        jsonb_build_object('consultation_id', n.id, 'role', 'LAWYER'),
        case
          when not was.active then 'membership_granted'
          when not remains.active then case when mirror.belongs_to_consultation(n.id, n."lawyerId")
          then 'membership_changed' else 'membership_revoked' end
          else 'membership_changed'
        end, 'user:' || n."lawyerId", true
      )
      from new_rows as n
      join old_rows as o on o.id = n.id
      cross join lateral (
        select coalesce(o."lawyerId" is not null and not (o."lawyerId" is distinct from n."lawyerId"), false)
      ) as was (active)
      cross join lateral (
        select coalesce(n."lawyerId" is not null, false)
      ) as remains (active)
      where was.active <> remains.active;
    end if;
  exception when others then
    raise warning 'nobody was told of changes in consultations: % (%)', sqlerrm, sqlstate;
  end;
  return null;
end
$$;
revoke all on function mirror.tell_consultations() from public, anon, authenticated, service_role;

create trigger mirror_consultations_told_insert
after insert on public.consultations referencing new table as new_rows
for each statement execute function mirror.tell_consultations();

create trigger mirror_consultations_told_update
after update on public.consultations referencing old table as old_rows new table as new_rows
for each statement execute function mirror.tell_consultations();

create trigger mirror_consultations_told_delete
after delete on public.consultations referencing old table as old_rows
for each statement execute function mirror.tell_consultations();
