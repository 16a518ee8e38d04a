-- A card at a hotel: 200.00 is authorised at arrival, with 15 % for what the minibar may cost; the stay is captured night
-- by night, the minibar at the end. Another authorisation is forgotten, and ends by itself at its deadline.
select account_id as guest from bank.open_account('Guest', 'EUR') \gset
select account_id as hotel from bank.open_account('Hotel', 'EUR') \gset
\echo The guest has 300.00 EUR.
select credit_balance_after_minor from bank.credit(:guest, 30000, 'card-story-salary');

\echo 200.00, up to 30.00 more, for seven days.
select transaction_id as stay
from bank.authorise(
    :guest, 20000, :hotel, tolerance_minor => 3000, expires_at => now() + interval '7 days',
    idempotency_key => 'stay-17', description => 'Two nights'
) \gset
\set hold 'select hold_status, amount_minor, captured_minor, held_minor, tolerance_minor from bank.hold(:stay)'
select balance_minor, held_minor, available_balance_minor from bank.balance(:guest);

\echo The first night.
select transaction_status, amount_minor from bank.capture(:stay, 9000, idempotency_key => 'stay-17-night-1');
:hold;

\echo 150.00 at the end would be more than amount and tolerance allow; 135.00 is within them, and ends the hold.
select transaction_status, failure_code, failure_detail
from bank.capture(:stay, 15000, idempotency_key => 'stay-17-bill');
select transaction_status, amount_minor
from bank.capture(:stay, 13500, final => true, idempotency_key => 'stay-17-bill-corrected');
:hold;

\echo A parking deposit that nobody captures: half a second later it does not count any more.
select transaction_id as parking
from bank.authorise(
    :guest, 5000, :hotel, expires_at => clock_timestamp() + interval '0.5 seconds', idempotency_key => 'parking-17'
) \gset
select from pg_sleep(0.6) \gset
select hold_status, held_minor from bank.hold(:parking);
select balance_minor, held_minor, available_balance_minor from bank.balance(:guest);
select transaction_status, failure_code from bank.capture(:parking, idempotency_key => 'parking-17-late');
