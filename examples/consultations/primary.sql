-- What the backend keeps: who talks to whom. The chat itself lives on Supabase.

create table consultations (
  id uuid primary key default gen_random_uuid(),
  -- Ids as Supabase Auth gave them. No lawyer: nobody has taken the case yet.
  "clientId" uuid not null,
  "lawyerId" uuid,
  status text not null default 'pending'
    check (status in ('pending', 'active', 'completed', 'cancelled')),
  "createdAt" timestamptz not null default now(),
  "deletedAt" timestamptz
);
