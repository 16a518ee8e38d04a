-- Roles stay: they belong to the server, and other databases may use them.
drop schema bank cascade;
