-- By name: Supabase's default privileges grant EXECUTE to each role, not only to PUBLIC.
revoke all on function
  mirror.flush(),
  mirror.lock(boolean),
  mirror.check_pair(text, uuid, jsonb),
  mirror.forget_freshness(),
  mirror.admit(jsonb, boolean),
  mirror.wal_timeline(),
  mirror.step(jsonb),
  mirror.forget_lost_parents(jsonb),
  mirror.fill(text, jsonb),
  mirror.parts(text),
  mirror.has_reference(jsonb, text, text),
  mirror.withdraw(text, integer, bigint, jsonb),
  mirror.within(jsonb, text, boolean),
  mirror.row_hash(text, text, text),
  mirror.survey_hash(text, text),
  mirror.mark(text, jsonb, text, integer, bigint),
  mirror.key_of(text, jsonb),
  mirror.refused(jsonb),
  mirror.release(text, integer, bigint, jsonb, jsonb, jsonb),
  mirror.can_write_others(text, jsonb, integer),
  mirror.may_be_altered(regclass),
  mirror.check_written(text, jsonb, jsonb, jsonb),
  mirror.mark_large(text, integer, bigint, jsonb),
  mirror.apply(jsonb),
  mirror.withhold(jsonb),
  mirror.open_scopes(jsonb),
  mirror.digest(jsonb),
  mirror.part_of(regclass, integer, integer),
  mirror.survey(jsonb),
  mirror.rows(jsonb),
  mirror.ancestor_expired(text, text),
  mirror.expired(jsonb),
  mirror.check_mapping(jsonb),
  mirror.purge(interval),
  mirror.rebase(text, integer),
  mirror.describe(),
  mirror.handles(regclass),
  mirror.deciding(jsonb),
  mirror.holding(jsonb, jsonb),
  mirror.keys(text, jsonb, integer),
  mirror.trace(jsonb)
from public, anon, authenticated, service_role;

revoke all on function
  public.mirror_apply(text),
  public.mirror_flush(),
  public.mirror_open_scopes(text),
  public.mirror_withhold(text),
  public.mirror_step(text),
  public.mirror_digest(text),
  public.mirror_survey(text),
  public.mirror_rows(text),
  public.mirror_expired(text),
  public.mirror_purge(text),
  public.mirror_rebase(text, text),
  public.mirror_describe(),
  public.mirror_trace(text),
  public.mirror_ask(text)
from public, anon, authenticated;

grant execute on function
  public.mirror_apply(text),
  public.mirror_flush(),
  public.mirror_open_scopes(text),
  public.mirror_withhold(text),
  public.mirror_step(text),
  public.mirror_digest(text),
  public.mirror_survey(text),
  public.mirror_rows(text),
  public.mirror_expired(text),
  public.mirror_purge(text),
  public.mirror_rebase(text, text),
  public.mirror_describe(),
  public.mirror_trace(text),
  public.mirror_ask(text)
to service_role, mirror_writer;
grant usage on schema public to mirror_writer;

-- Supabase's API notices new functions by itself; elsewhere it has to be told.
notify pgrst, 'reload schema';
