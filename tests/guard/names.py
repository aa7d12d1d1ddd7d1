"""Names and texts that mean no good to the line, the statement, the comment or the terminal that shows them."""

VICTIM = "app_victim"
HOSTILE = [
    f"x\nALTER ROLE {VICTIM} SUPERUSER; --",
    f"x\r\nALTER ROLE {VICTIM} SUPERUSER; --",
    f'x"; ALTER ROLE {VICTIM} SUPERUSER; --',
    f"x*/ ALTER ROLE {VICTIM} SUPERUSER; /*",
    f"x'; ALTER ROLE {VICTIM} SUPERUSER; --",
    f"x$$; ALTER ROLE {VICTIM} SUPERUSER; $$",
    f"x\x85ALTER ROLE {VICTIM} SUPERUSER; --",
    f"x\u2028ALTER ROLE {VICTIM} SUPERUSER; --",
    "x: deny\n-- table: public.users",
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b2J\x7f",
    "\N{RIGHT-TO-LEFT OVERRIDE}lqs.eliforp",
    "pass\N{ZERO WIDTH SPACE}word",
    "pass\N{VARIATION SELECTOR-16}word",
    "pass\N{HANGUL FILLER}word",
    "\U000e0041tag",
    "back\\slash\n\\echo obeyed",
    "../../escape",
    'U&"\\0041"',
    "\N{LATIN SMALL LETTER E WITH ACUTE}" * 31 + "\n",
    "select",
]
