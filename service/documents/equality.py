"""Check that a dataset can't return another user's rows for the user `$1`.

A nondeterministic collation, a type with an equality of its own, a cast or a function may take unlike ids for the same.
So the columns that hold the user's id are followed through the query tree: from `$1` by each equation to the columns
that equal it, through subqueries, views and unions, until no further column is found. Those columns may only be
compared in ways that are known to tell any two ids apart; everything else is refused. Conditions about other columns
are free.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from service.backends.database import QUERIES, Connection, using_safe_search_path
from service.documents.query_trees import TYPE, Node, nodes_in, parse_query_tree, read_query_tree
from service.errors import ConfigurationError

# The query's number, the number in its range table (0: its own result), the column's, and perhaps a member of its JSON.
Column = tuple[object, ...]
USER: Column = ("$1",)
RESULT = 0

RELATION, SUBQUERY, JOIN, VALUES, CTE, GROUP = "0", "1", "2", "5", "6", "9"  # PostgreSQL's RTEKind
EXTERNAL, SUBLINK = "0", "2"  # its ParamKind
CASTS = ("1", "2")  # its CoercionForm: written, or implied
EXISTS = "0"  # its SubLinkType
COMPARISONS = {"OPEXPR", "DISTINCTEXPR", "SCALARARRAYOPEXPR"}
TRANSPARENT = {"RELABELTYPE", "COLLATEEXPR", "COERCETODOMAIN"}  # none changes a byte
COLLATIONS = ("varcollid", "resultcollid", "collOid")


class Functions(msgspec.Struct, frozen=True):
    """The numbers of PostgreSQL's own functions, and operators, that keep unlike ids apart."""

    comparisons: frozenset[str]
    containments: frozenset[str]
    values: frozenset[str]  # their arguments' values come out as they went in
    members: frozenset[str]
    trims: frozenset[str]  # cut blanks off the end of a char(n)
    group_operators: frozenset[str]
    arrays: frozenset[str]
    printed_types: frozenset[str]
    text_types: frozenset[str]


class Scope(msgspec.Struct, frozen=True):
    """Where an expression stands: in `query`, within others; `subquery` is the one that its IN is about."""

    query: Node
    outer: "Scope | None" = None
    subquery: Node | None = None

    def at(self, levels: str) -> "Scope":
        return self if levels == "0" or self.outer is None else self.outer.at(str(int(levels) - 1))


class Expression(msgspec.Struct, frozen=True):
    """`columns` are those that it depends on."""

    node: Node
    scope: Scope
    columns: frozenset[Column]


class Key(msgspec.Struct, frozen=True):
    """An expression that rows are grouped by; `is_value` if it is a column as it is."""

    expression: Expression
    operator: str
    collation: str | None
    is_value: bool


async def read_functions(connection: Connection) -> Functions:
    async with using_safe_search_path(connection):
        row = await connection.fetchrow(QUERIES["list_exact_functions"])
    return Functions(**{name: frozenset(map(str, numbers)) for name, numbers in (row or {}).items()})


async def check_equality(connection: Connection, sql: str, functions: Functions) -> None:
    """Raise ConfigurationError unless the user's id is compared as it is with each column that decides about rows."""
    judgement = judge(await read_query_tree(connection, sql), functions)
    async with using_safe_search_path(connection):
        await judgement.pronounce(connection)
        await check_columns(connection, [judgement])


def judge(tree: str, functions: Functions) -> "Judgement":
    """`tree` is the text of the query's tree."""
    facts = _Reading(functions)
    try:
        facts.read_query(parse_query_tree(tree), None)
        return Judgement(facts)
    except RecursionError:
        raise ConfigurationError("it is nested too deeply to be checked: write a chain of || as concat()") from None


class _Reading:
    """Reads from the tree which columns are the same, are equated, or are made from others; and all conditions."""

    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self.same: set[tuple[Column, Column]] = set()  # from the second, the first gets its value
        self.equations: list[Expression] = []
        self.made: dict[Column, Expression] = {}  # out of others
        self.chosen: dict[Column, list[Expression]] = {}  # by conditions, from several that it is the same as
        self.conditions: list[Expression] = []
        self.keys: list[Key] = []
        self.tables: dict[Column, tuple[int, int]] = {}
        self._read: set[object] = set()

    def read_query(self, query: Node, outer: Scope | None) -> None:
        if self._is_read(id(query)):
            return
        scope = Scope(query, outer)
        self._read_sources(scope)
        for condition in _conditions(query):
            self.conditions.append(self.expression(condition, scope))
        for target in query["targetList"] or []:
            self._read_value((id(query), RESULT, int(target["resno"])), target["expr"], scope)
        self._read_keys(scope)
        if query["setOperations"]:
            self._read_set_operation(query["setOperations"], scope)

    def _is_read(self, thing: object) -> bool:
        """Whether it was read before. From now on it is."""
        before = len(self._read)
        self._read.add(thing)
        return len(self._read) == before

    def _read_sources(self, scope: Scope) -> None:
        for cte in scope.query["cteList"] or []:
            self.read_query(cte["ctequery"], scope)
        for number, source in enumerate(scope.query["rtable"] or [], 1):
            if source["rtekind"] == SUBQUERY:
                self.read_query(source["subquery"], scope)
            for condition in nodes_in(source["securityQuals"]):
                self.conditions.append(self.expression(condition, scope))
            for row in source.get("values_lists") or []:
                for position, value in enumerate(row, 1):
                    self._read_value((id(scope.query), number, position), value, scope)

    def _read_value(self, column: Column, value: Node, scope: Scope) -> None:
        """Note the columns that `column` gets its value from."""
        columns = self.links(value, scope)
        if columns is None:
            self.made[column] = self.expression(value, scope)
        else:
            self.same |= {(column, other) for other in columns}
            self.chosen[column] = [*self.chosen.get(column, []), *self._choices(value, scope)]

    def _read_keys(self, scope: Scope) -> None:
        """Values that GROUP BY, DISTINCT and PARTITION BY take for the same become one row, or one group."""
        query = scope.query
        targets = {target["ressortgroupref"]: target["expr"] for target in query["targetList"] or []}
        windows = [clause for window in query["windowClause"] or [] for clause in window["partitionClause"] or []]
        for clause in [*(query["groupClause"] or []), *(query["distinctClause"] or []), *windows]:
            value = targets[clause["tleSortGroupRef"]]
            columns = self.links(value, scope)
            key = self.expression(value, scope) if columns is None else Expression(value, scope, frozenset(columns))
            self.keys.append(Key(key, clause["eqop"], _collation(value), is_value=columns is not None))

    def _read_set_operation(self, operation: Node, scope: Scope) -> None:
        """`operation` is a union, an intersection or a difference; or a reference to one of its queries."""
        query = scope.query
        if operation[TYPE] == "RANGETBLREF":
            for target in query["targetList"]:
                position = int(target["resno"])
                self.same.add(((id(query), RESULT, position), self._column(operation["rtindex"], position, scope)))
            return
        self._read_set_operation(operation["larg"], scope)
        self._read_set_operation(operation["rarg"], scope)
        collations = (operation["colCollations"] or [])[1:]
        for position, clause in enumerate(operation["groupClauses"] or [], 1):
            key = Expression(operation, scope, frozenset({(id(query), RESULT, position)}))
            self.keys.append(Key(key, clause["eqop"], collations[position - 1], is_value=True))

    def expression(self, node: Node, scope: Scope) -> Expression:
        return Expression(node, scope, frozenset(self.leaves(node, scope)))

    def leaves(self, node: Node, scope: Scope) -> set[Column]:
        """The columns that the value depends on otherwise than by known ways of telling ids apart."""
        if node[TYPE] == "SUBLINK":
            return self._sublink_leaves(node, scope)
        if node[TYPE] == "QUERY":
            return set()
        if node[TYPE] == "NULLTEST" and self.links(node["arg"], scope) is not None:
            return set()
        if node[TYPE] in COMPARISONS and self._is_equation(node, scope):
            return set()
        if (columns := self._own_columns(node, scope)) is not None:
            return columns
        return {column for part in nodes_in(node) for column in self.leaves(part, scope)}

    def _sublink_leaves(self, node: Node, scope: Scope) -> set[Column]:
        self.read_query(node["subselect"], scope)
        if node["testexpr"]:
            return self.leaves(node["testexpr"], Scope(scope.query, scope.outer, node["subselect"]))
        return set() if node["subLinkType"] == EXISTS else {(id(node["subselect"]), RESULT, 1)}

    def _is_equation(self, node: Node, scope: Scope) -> bool:
        if not self._is_exact(node):
            return False
        sides = [self.links(side, scope) for side in node["args"]]
        if None in sides:
            return False
        if not self._is_read(("equation", id(node))):
            self.equations.append(Expression(node, scope, frozenset(column for side in sides for column in side or ())))
            self.conditions += [choice for side in node["args"] for choice in self._choices(side, scope)]
        return True

    def _choices(self, node: Node, scope: Scope) -> Iterator[Expression]:
        """The conditions by which a value is one of its parts."""
        if node[TYPE] == "CASEEXPR":
            for condition in nodes_in([node["arg"], *(when["expr"] for when in node["args"])]):
                yield self.expression(condition, scope)
        if node[TYPE] == "AGGREF":
            for condition in nodes_in([node["aggfilter"]]):
                yield self.expression(condition, scope)
        for part in self._same_parts(node) or []:
            yield from self._choices(part, scope)

    def _is_exact(self, node: Node) -> bool:
        if node["opfuncid"] in self.functions.containments:
            return all(self._type(side) in self.functions.arrays for side in node["args"])
        return node["opfuncid"] in self.functions.comparisons

    def links(self, node: Node, scope: Scope) -> set[Column] | None:
        """The columns whose value the node has, as it is; none for a constant. None if it has another value."""
        if (columns := self._own_columns(node, scope)) is not None:
            return columns
        if (parts := self._same_parts(node)) is not None:
            return self._all_links(parts, scope)
        if node[TYPE] == "NULLIFEXPR" and self._is_equation(node, scope):
            return self._all_links(node["args"], scope)
        if node[TYPE] == "OPEXPR" and node["opfuncid"] in self.functions.members:
            return self._member(node, scope)
        if node[TYPE] == "SUBLINK" and not node["testexpr"] and node["subLinkType"] != EXISTS:
            return self._sublink_leaves(node, scope)
        return None if self.leaves(node, scope) or self._is_condition(node) else set()

    def _is_condition(self, node: Node) -> bool:
        return node[TYPE] in {"SUBLINK", "NULLTEST", *COMPARISONS}

    def _all_links(self, parts: Iterable[Node], scope: Scope) -> set[Column] | None:
        found = [self.links(part, scope) for part in parts]
        return None if None in found else {column for columns in found for column in columns or ()}

    def _is_padded(self, node: Node, scope: Scope) -> bool:
        """Whether it is a table's column of type char(n), in which texts never differ by blanks at their end alone."""
        if node[TYPE] != "VAR" or node["vartypmod"] == "-1":
            return False
        source = scope.at(node["varlevelsup"]).query["rtable"][int(node["varno"]) - 1]
        return bool(source["rtekind"] == RELATION)

    def _same_parts(self, node: Node) -> list[Node] | None:
        """The nodes one of which is the node's value. Their types differ at most by a cast that keeps ids apart."""
        kind = node[TYPE]
        if kind in TRANSPARENT or (kind == "COERCEVIAIO" and self._is_printed(node)):
            return [node["arg"]]
        if _function(node) in self.functions.values:
            return [argument.get("expr", argument) for argument in node["args"] or []]
        if kind == "ARRAYCOERCEEXPR":
            return [node["arg"]] if self._same_parts(node["elemexpr"]) is not None else None
        if kind == "CASEEXPR":
            return [*(when["result"] for when in node["args"]), *nodes_in([node["defresult"]])]
        if kind == "COALESCEEXPR":
            return list(node["args"])
        return list(node["elements"] or []) if kind == "ARRAYEXPR" else None

    def _is_printed(self, cast: Node) -> bool:
        """Whether it is an id's text, of which there is one for each id."""
        return cast["resulttype"] in self.functions.text_types and (
            self._type(cast["arg"]) in self.functions.printed_types
        )

    def _type(self, node: Node) -> str | None:
        names = ("vartype", "paramtype", "resulttype", "typeId", "array_typeid", "consttype")
        return next((node[name] for name in names if name in node), None)

    def _member(self, node: Node, scope: Scope) -> set[Column] | None:
        """A member of a JSON value, which is followed like a column of its own."""
        container, name = node["args"]
        columns = self.links(container, scope)
        if columns is None or name[TYPE] != "CONST":
            return None
        return {(*column, name["constvalue"]) for column in columns}

    def _own_columns(self, node: Node, scope: Scope) -> set[Column] | None:
        if _function(node) in self.functions.trims and self._is_padded(node["args"][0], scope):
            return self._own_columns(node["args"][0], scope)
        if node[TYPE] == "VAR":
            return {self._column(node["varno"], int(node["varattno"]), scope.at(node["varlevelsup"]))}
        if node[TYPE] == "PARAM" and node["paramkind"] == EXTERNAL:
            return {USER}
        if node[TYPE] == "PARAM" and node["paramkind"] == SUBLINK:
            return {(id(scope.subquery), RESULT, int(node["paramid"]))}
        return None

    def _column(self, number: str, position: int, scope: Scope) -> Column:
        """A column of the query's range table, and what it gets its value from."""
        if position == 0:  # the whole row
            return (id(scope.query), int(number))
        column = (id(scope.query), int(number), position)
        source = scope.query["rtable"][int(number) - 1]
        kind = source["rtekind"]
        if kind == RELATION:
            self.tables[column] = (int(source["relid"]), position)
        elif kind == SUBQUERY:
            self.same.add((column, (id(source["subquery"]), RESULT, position)))
        elif kind == CTE:
            self.same.add((column, (id(_find_cte(source, scope)), RESULT, position)))
        elif kind != VALUES and not self._is_read(column):
            self._read_computed(column, source, scope)
        return column

    def _read_computed(self, column: Column, source: Node, scope: Scope) -> None:
        """A column of a join, of groups, or of a function, of which all columns depend on its arguments."""
        values = source["joinaliasvars"] if source["rtekind"] == JOIN else source.get("groupexprs")
        calls = source.get("functions") or []
        if values:
            self._read_value(column, values[int(str(column[2])) - 1], scope)
        elif len(calls) == 1 and column[2] == 1:
            self._read_value(column, calls[0]["funcexpr"], scope)
        else:
            self.made[column] = self.expression(source.get("tablefunc") or {TYPE: "LIST", "calls": calls}, scope)


class Judgement:
    """Finds the columns that hold the user's id, and those that depend on one of them, and judges their uses."""

    def __init__(self, facts: _Reading) -> None:
        self._facts = facts
        self._exact = self._find_exact()
        self._derived = self._find_derived()

    def _find_exact(self) -> set[Column]:
        groups = [*(equation.columns for equation in self._facts.equations), *map(frozenset, self._facts.same)]
        exact = {USER}
        while fresh := [group for group in groups if not exact.isdisjoint(group) and not group <= exact]:
            exact.update(*fresh)
        return exact

    def _find_derived(self) -> set[Column]:
        facts = self._facts
        sources = [(to, frozenset({source})) for to, source in facts.same]
        made = [(column, value.columns) for column, value in facts.made.items()]
        made += [(column, choice.columns) for column, choices in facts.chosen.items() for choice in choices]
        derived: set[Column] = set()
        while (
            fresh := {
                *(to for to, columns in made if _touch(columns, self._exact | derived)),
                *(to for to, columns in sources if columns <= derived),
            }
            - derived
        ):
            derived |= fresh
        return derived

    async def pronounce(self, connection: Connection) -> None:
        """Raise ConfigurationError for the first fault. To be called with the safe search path."""
        for fault in self._faults():
            operation = await _describe(connection, fault)
            raise ConfigurationError(
                f"it compares the user's id by {operation}, which may take unlike ids for the same: "
                "write `column = $1` or `column = column`, and cast the id, not the column, where types differ"
            )

    def _faults(self) -> Iterator[Node]:
        """The expressions that other ids could come in by."""
        facts, tainted = self._facts, self._exact | self._derived
        for condition in facts.conditions:
            if _touch(condition.columns, tainted):
                yield self._blame(condition)
        for equation in facts.equations:
            if not equation.columns.isdisjoint(self._derived):
                yield self._blame_source(min(equation.columns & self._derived, key=repr))
        for column in self._exact & facts.made.keys():
            if facts.made[column].columns:
                yield self._blame(facts.made[column])
        for key in facts.keys:
            columns = key.expression.columns
            is_known = key.is_value and key.operator in facts.functions.group_operators
            if not columns.isdisjoint(self._derived) or (_touch(columns, tainted) and not is_known):
                yield key.expression.node

    def _blame_source(self, column: Column) -> Node:
        """The expression that made a column of the user's id, or chose by it."""
        facts = self._facts
        made = [*([facts.made[column]] if column in facts.made else []), *facts.chosen.get(column, [])]
        for expression in made:
            if _touch(expression.columns, self._exact | self._derived):
                return self._blame(expression)
        return self._blame_source(next(source for to, source in facts.same if to == column and source in self._derived))

    def _blame(self, expression: Expression) -> Node:
        """The innermost node that isn't known to keep ids apart."""
        node, scope = expression.node, expression.scope
        unknown = [part for part in nodes_in(node) if self._facts.links(part, scope) is None]
        parts = [self._facts.expression(part, scope) for part in unknown]
        tainted = [part for part in parts if _touch(part.columns, self._exact | self._derived)]
        if tainted or (parts and _function(node) in {None, *self._facts.functions.comparisons}):
            return self._blame([*tainted, *parts][0])
        if expression.columns & self._derived:
            return self._blame_source(min(expression.columns & self._derived, key=repr))
        return node

    @property
    def columns(self) -> list[tuple[int, int]]:
        """Those that the user's id is compared with: the numbers of their tables, and in these."""
        return sorted(self._facts.tables[column] for column in self._exact & self._facts.tables.keys())

    @property
    def collations(self) -> list[int]:
        """The numbers of those by which the user's id is compared."""
        facts = self._facts
        equations = [equation for equation in facts.equations if not equation.columns.isdisjoint(self._exact)]
        keys = [key for key in facts.keys if not key.expression.columns.isdisjoint(self._exact)]
        used = {*(equation.node["inputcollid"] for equation in equations), *(key.collation for key in keys)}
        return sorted(int(collation) for collation in used if collation)


async def check_columns(connection: Connection, judgements: Sequence[Judgement]) -> None:
    """Raise ConfigurationError for a column, or a collation, that may be the same for unlike ids.

    To be called with the safe search path.
    """
    columns = sorted({column for judgement in judgements for column in judgement.columns})
    collations = sorted({collation for judgement in judgements for collation in judgement.collations})
    places = [table for table, _ in columns], [number for _, number in columns]
    if generated := await connection.fetchval(QUERIES["find_generated_column"], *places):
        raise ConfigurationError(
            f"{generated}, which the user's id is compared with, is generated from other columns: compare those"
        )
    loose = await connection.fetchrow(QUERIES["find_loose_collation"], collations, *places)
    if loose and loose["column"]:
        raise ConfigurationError(
            f"{loose['column']}, which the user's id is compared with, has a collation that may take unlike ids "
            'for the same: change that, or compare a text as `column COLLATE "C"`'
        )
    if loose:
        raise ConfigurationError(f"its COLLATE {loose['collation']} takes unlike texts for the same: use = alone")


async def _describe(connection: Connection, node: Node) -> str:
    """A word for it: the function, the operator, or the type that it casts to."""
    kind, number = "expression", 0
    if node[TYPE] in {"COERCEVIAIO", "ARRAYCOERCEEXPR"} or node.get("funcformat") in CASTS:
        kind, number = "cast", int(node.get("resulttype") or node["funcresulttype"])
    elif "opno" in node:
        kind, number = "operator", int(node["opno"])
    elif function := _function(node):
        kind, number = "function", int(function)
    return str(await connection.fetchval(QUERIES["describe_expression"], kind, number))


def _touch(columns: Iterable[Column], tainted: set[Column]) -> bool:
    """Whether one of the columns is tainted, or a member or the whole of one that is."""
    return any(
        column[: len(other)] == other or other[: len(column)] == column for column in columns for other in tainted
    )


def _function(node: Node) -> str | None:
    return next((node[name] for name in ("funcid", "aggfnoid", "winfnoid", "opfuncid") if name in node), None)


def _conditions(query: Node) -> Iterator[Node]:
    yield from _join_conditions(query["jointree"])
    yield from nodes_in([query["havingQual"], query["limitOffset"], query["limitCount"]])


def _join_conditions(node: Node) -> Iterator[Node]:
    yield from nodes_in([node.get("quals")])
    for part in nodes_in([node.get("fromlist"), node.get("larg"), node.get("rarg")]):
        yield from _join_conditions(part)


def _find_cte(source: Node, scope: Scope) -> Node:
    named = [cte for cte in scope.at(source["ctelevelsup"]).query["cteList"] if cte["ctename"] == source["ctename"]]
    query: Node = named[0]["ctequery"]
    return query


def _collation(node: Node) -> str | None:
    return next((node[name] for name in COLLATIONS if name in node), None)
