/** Places of the nodes of a history: a column per generation, a lane per branch. */

export interface TreeItem<Id> {
  id: Id;
  parent: Id | null;
}

export interface TreePlace {
  column: number;
  lane: number;
}

/** A first child stays in its parent's lane; every other child begins a lane below all that are in use so far.
 *
 * @param items parents before their children.
 */
export function treePlaces<Id>(items: readonly TreeItem<Id>[]): Map<Id, TreePlace> {
  const children = new Map<Id | null, Id[]>();
  const ids = new Set(items.map((item) => item.id));
  for (const item of items) {
    const parent = item.parent !== null && ids.has(item.parent) ? item.parent : null;
    children.set(parent, [...(children.get(parent) ?? []), item.id]);
  }
  const places = new Map<Id, TreePlace>();
  let lanes = 0;
  const roots = children.get(null) ?? [];
  const stack: { id: Id; column: number; lane: number | null }[] = roots
    .map((id) => ({ id, column: 0, lane: null }))
    .reverse();
  while (stack.length) {
    const { id, column, lane } = stack.pop()!;
    const own = lane ?? lanes++;
    places.set(id, { column, lane: own });
    const below = (children.get(id) ?? []).map((child, i) => ({ id: child, column: column + 1, lane: i === 0 ? own : null }));
    stack.push(...below.reverse());
  }
  return places;
}
