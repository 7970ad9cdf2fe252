(
  select s.fence from mirror.scopes as s
  where s.mapping = {mapping} and s.reference = {reference}
    and s.value = {value} and s.epoch = p_epoch
)
