-- An API key without its digest.
create or replace view bank.principal as
select
    k.api_key_id,
    k.ledger_id,
    k.name,
    k.scopes,
    k.created_at,
    k.expires_at,
    k.revoked_at
from bank.api_key as k;

comment on view bank.principal is 'Who a key stands for: its ledger, scopes and dates, without the key';
