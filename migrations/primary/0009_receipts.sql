-- The functions for receipts (mirror/capture/receipts.py) tell nothing about another's keys: they have
-- labels in place of hashes, for the transaction's own backend only.
-- Every statement can run again.


-- Never leaves the database.
alter table mirror.state add column if not exists receipt_secret text not null
default gen_random_uuid()::text || gen_random_uuid()::text;


-- The proof that a transaction is the caller's own: it is given inside of that transaction only.
create or replace function mirror.prove_transaction() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select encode(sha256(convert_to(
    'proof ' || receipt_secret || pg_current_xact_id_if_assigned()::text, getdatabaseencoding()
  )), 'hex')
  from mirror.state
$$;


-- The events of a transaction: [id, mapping, reference, label of the key's first part] each. Equal
-- texts have equal labels within one transaction. Without its proof, each label is null.
create or replace function mirror.events_of(of_transaction xid8, proof text) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    jsonb_agg(
      jsonb_build_array(
        e.id, e.mapping, e.reference,
        case
          when proof = encode(sha256(convert_to(
            'proof ' || s.receipt_secret || of_transaction::text, getdatabaseencoding()
          )), 'hex')
          then encode(sha256(convert_to(
            'label ' || s.receipt_secret || of_transaction::text || ' ' || e.key[1],
            getdatabaseencoding()
          )), 'hex')
        end
      )
    ),
    '[]'
  )
  from (
    select id, mapping, reference, key from mirror.outbox
    where lane in (0, 1) and transaction_id = of_transaction::text::bigint
    union all
    select id, mapping, reference, key from mirror.retries
    where transaction_id = of_transaction::text::bigint
  ) as e
  left join mirror.state as s on true
$$;


-- For backends of the version before, which know no proof.
create or replace function mirror.events_of(of_transaction xid8) returns jsonb
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select mirror.events_of(
    of_transaction,
    case
      when of_transaction = pg_current_xact_id_if_assigned() then mirror.prove_transaction()
    end
  )
$$;


-- Which of these events wait or are buried; once none does, how many do that they led to: those
-- under one of `scopes` ([mapping, reference, label]), or of any value `anywhere` ([mapping,
-- reference]). Without the transaction's `proof`, or without a label, a scope is of any value, too.
-- Another transaction's may be among these, so of the buried only those count there that are newer.
-- STABLE, so that all of it sees one snapshot: events move from table to table.
create or replace function mirror.still_waiting(question jsonb) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
  ids constant bigint[] := array(
    select value::bigint from jsonb_array_elements_text(question -> 'ids') as id (value)
  );
  newest constant bigint := (question ->> 'newest')::bigint;
  proven constant boolean := coalesce((
    select question ->> 'proof' = encode(sha256(convert_to(
      'proof ' || receipt_secret || (question ->> 'transaction'), getdatabaseencoding()
    )), 'hex')
    from mirror.state
  ), false);
  seed constant text := (
    select 'label ' || receipt_secret || (question ->> 'transaction') || ' ' from mirror.state
  );
  waiting jsonb;
  buried jsonb;
  following bigint := 0;
begin
  select coalesce(jsonb_agg(e.id) filter (where not e.buried), '[]'),
    coalesce(jsonb_agg(e.id) filter (where e.buried), '[]')
  into waiting, buried
  from (
    select id, false from mirror.outbox
    where lane in (0, 1) and transaction_id = (question ->> 'transaction')::bigint
      and id = any(ids)
    union all
    select id, buried_at is not null from mirror.retries where id = any(ids)
  ) as e (id, buried);
  if waiting = '[]' and buried = '[]' then
    select count(*) filter (where not e.buried),
      coalesce(jsonb_agg(e.id) filter (where e.buried), '[]')
    into following, buried
    from (
      select id, mapping, reference, key, false from mirror.outbox
      union all
      select id, mapping, reference, key, buried_at is not null from mirror.retries
    ) as e (id, mapping, reference, key, buried)
    where exists (
      select from jsonb_array_elements(question -> 'scopes') as s (scope)
      where scope ->> 0 = e.mapping and scope ->> 1 = e.reference and proven
        and scope ->> 2
          = encode(sha256(convert_to(seed || e.key[1], getdatabaseencoding())), 'hex')
    )
    or ((not e.buried or e.id > newest) and (e.mapping, coalesce(e.reference, '')) in (
      select pair ->> 0, coalesce(pair ->> 1, '')
      from jsonb_array_elements(question -> 'anywhere') as a (pair)
      union all
      select scope ->> 0, scope ->> 1
      from jsonb_array_elements(question -> 'scopes') as s (scope)
      where not proven or scope ->> 2 is null
    ));
  end if;
  return jsonb_build_object('waiting', waiting, 'buried', buried, 'following', following);
end
$$;
