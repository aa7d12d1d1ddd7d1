-- Finds the users whom an operator's request names by an e-mail address: one SELECT with the single column `id`, the
-- user's id as in the token and the profile. $1 is the address. A request for an address of several users is refused.
SELECT id FROM public.users WHERE email = $1
