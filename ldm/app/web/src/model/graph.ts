/** Scene graphs as the editor holds them: objects have ids that never change, so that two versions of a graph match.
 *
 * Every function returns a new graph and leaves its argument as it was. null is unknown, empty is none.
 */

import type { Box } from "./geometry";

export interface SceneObject {
  id: string;
  name: string;
  box: Box | null;
  attributes: string[] | null;
}

/** [subject, predicate, object], the two ends by id. */
export type Triple = [string, string, string];

export interface Graph {
  objects: SceneObject[];
  triples: Triple[] | null;
}

/** The file format of the project, which is sg2im's with boxes, attributes and ids. */
export interface GraphJson {
  objects: string[];
  relationships?: [number, string, number][] | null;
  boxes?: (number[] | null)[] | null;
  attributes?: (string[] | null)[] | null;
  ids?: (string | null)[] | null;
}

export const EMPTY: Graph = { objects: [], triples: [] };

export function fromJson(json: GraphJson): Graph {
  const taken = new Set((json.ids ?? []).filter((id): id is string => id !== null));
  const ids: string[] = [];
  const attributes = json.attributes && json.attributes.length === 0 ? json.objects.map(() => []) : json.attributes;
  json.objects.forEach((_, index) => {
    const id = json.ids?.[index] ?? freeId(taken);
    taken.add(id);
    ids.push(id);
  });
  return {
    objects: json.objects.map((name, index) => ({
      id: ids[index]!,
      name,
      box: (json.boxes?.[index] as Box | null | undefined) ?? null,
      attributes: attributes?.[index] ?? null,
    })),
    triples: json.relationships?.map(([subject, predicate, object]) => [ids[subject]!, predicate, ids[object]!]) ?? null,
  };
}

export function toJson(graph: Graph): GraphJson {
  const index = new Map(graph.objects.map((object, i) => [object.id, i]));
  const json: GraphJson = { objects: graph.objects.map((object) => object.name) };
  if (graph.triples) json.relationships = graph.triples.map(([s, p, o]) => [index.get(s)!, p, index.get(o)!]);
  if (graph.objects.some((object) => object.box)) json.boxes = graph.objects.map((object) => object.box);
  if (graph.objects.some((object) => object.attributes)) {
    json.attributes = graph.objects.map((object) => object.attributes);
  }
  json.ids = graph.objects.map((object) => object.id);
  return json;
}

/** An id that is not among `taken`: o1, o2, ... */
export function freeId(taken: Iterable<string>): string {
  const known = new Set(taken);
  let number = 1;
  while (known.has(`o${number}`)) number++;
  return `o${number}`;
}

export function find(graph: Graph, id: string | null): SceneObject | undefined {
  return graph.objects.find((object) => object.id === id);
}

/** An object in words, such as "large red circle". */
export function describe(object: SceneObject): string {
  return [...(object.attributes ?? []), object.name].join(" ");
}

export function addObject(graph: Graph, object: SceneObject): Graph {
  return { ...graph, objects: [...graph.objects, object] };
}

/** Removes an object and its relations. */
export function removeObject(graph: Graph, id: string): Graph {
  return {
    objects: graph.objects.filter((object) => object.id !== id),
    triples: graph.triples && graph.triples.filter(([s, , o]) => s !== id && o !== id),
  };
}

export function changeObject(graph: Graph, id: string, change: Partial<Omit<SceneObject, "id">>): Graph {
  if (!find(graph, id)) return graph;
  return { ...graph, objects: graph.objects.map((object) => (object.id === id ? { ...object, ...change } : object)) };
}

/** Adds an attribute. One of the same group, such as another colour, gives way to it. */
export function addAttribute(graph: Graph, id: string, name: string, groups: string[][] = []): Graph {
  const object = find(graph, id);
  if (!object || object.attributes?.includes(name)) return graph;
  const group = groups.find((names) => names.includes(name)) ?? [];
  const attributes = [...(object.attributes ?? [])];
  const place = attributes.findIndex((other) => group.includes(other));
  if (place >= 0) attributes.splice(place, 1, name);
  else attributes.push(name);
  return changeObject(graph, id, { attributes: attributes.filter((a, i) => i === place || a === name || !group.includes(a)) });
}

export function removeAttribute(graph: Graph, id: string, name: string): Graph {
  const object = find(graph, id);
  return changeObject(graph, id, { attributes: (object?.attributes ?? []).filter((other) => other !== name) });
}

/** The relations between two objects, in this direction. */
export function between(graph: Graph, subject: string, object: string): string[] {
  return (graph.triples ?? []).filter(([s, , o]) => s === subject && o === object).map(([, predicate]) => predicate);
}

/** Sets the one relation from a subject to an object; null removes what there is. */
export function relate(graph: Graph, subject: string, predicate: string | null, object: string): Graph {
  if (subject === object) return graph;
  const triples = graph.triples ?? [];
  const place = triples.findIndex(([s, , o]) => s === subject && o === object);
  const others = triples.filter(([s, , o]) => s !== subject || o !== object);
  if (predicate === null) return { ...graph, triples: others };
  const at = place < 0 ? others.length : Math.min(place, others.length);
  return { ...graph, triples: [...others.slice(0, at), [subject, predicate, object], ...others.slice(at)] };
}

export function removeTriple(graph: Graph, triple: Triple): Graph {
  return { ...graph, triples: (graph.triples ?? []).filter((other) => !sameTriple(other, triple)) };
}

export function sameTriple(a: Triple, b: Triple): boolean {
  return a[0] === b[0] && a[1] === b[1] && a[2] === b[2];
}

export function tripleKey(triple: Triple): string {
  return triple.join("\u0000");
}

/** Whether two graphs say the same, in whatever order. */
export function sameGraph(a: Graph, b: Graph): boolean {
  return a === b || ordered(a) === ordered(b);
}

function ordered({ objects, triples }: Graph): string {
  const sorted = objects.map(({ id, name, box, attributes }) => [id, name, box, attributes && [...attributes].sort()]);
  sorted.sort((x, y) => (x[0]! < y[0]! ? -1 : 1));
  return JSON.stringify([sorted, triples && [...new Set(triples.map(tripleKey))].sort()]);
}

export type ObjectChange = "same" | "new" | "changed";

/** What became of an object of the edited graph since the source graph. */
export function objectChange(source: Graph, object: SceneObject): ObjectChange {
  const before = find(source, object.id);
  if (!before) return "new";
  const same =
    before.name === object.name &&
    sameBox(before.box, object.box) &&
    sameNames(before.attributes, object.attributes);
  return same ? "same" : "changed";
}

export function sameBox(a: Box | null, b: Box | null): boolean {
  return a === b || (a !== null && b !== null && a.every((value, i) => Math.abs(value - b[i]!) < 1e-9));
}

function sameNames(a: string[] | null, b: string[] | null): boolean {
  return a === b || (a !== null && b !== null && a.length === b.length && a.every((name) => b.includes(name)));
}

/** The objects of the source graph that the edited graph no longer has. */
export function removedObjects(source: Graph, draft: Graph): SceneObject[] {
  return source.objects.filter((object) => !find(draft, object.id));
}
