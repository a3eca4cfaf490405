/** The selected object or relation in words, and the list of all objects where nothing is selected. */

import { changeGraph, relate, removeSelected, restoreObject, setBox } from "../actions/draft";
import type { Box } from "../model/geometry";
import * as g from "../model/graph";
import { doc, isCanvas, setState, shownGraph, useStore } from "../store";
import { t } from "../texts";
import { Attributes } from "./Attributes";
import { Combobox } from "./Combobox";
import { hueOf } from "./hooks";
import { Icon } from "./icons";

export function Inspector() {
  const selection = useStore((s) => s.selection);
  const graph = useStore(shownGraph);
  const object = selection?.kind === "object" ? g.find(graph, selection.id) : undefined;
  if (object) return <ObjectForm graph={graph} object={object} />;
  if (selection?.kind === "triple" && graph.triples?.some((triple) => g.sameTriple(triple, selection.triple))) {
    return <RelationForm graph={graph} triple={selection.triple} />;
  }
  return <ObjectList graph={graph} />;
}

function ObjectList({ graph }: { graph: g.Graph }) {
  const source = useStore((s) => doc(s)?.source ?? null);
  const canvas = useStore(isCanvas);
  const hover = useStore((s) => s.hover);
  const removed = source && !canvas ? g.removedObjects(source, graph) : [];
  const changeOf = (object: g.SceneObject) => (source && !canvas ? g.objectChange(source, object) : "same");
  return (
    <section class="inspector card">
      <h2>
        {t("objects")} <span class="count">{graph.objects.length}</span>
      </h2>
      {graph.objects.length + removed.length === 0 && <p class="quiet">{t("noObjects")}</p>}
      <ul class="objects">
        {graph.objects.map((object) => (
          <li key={object.id}>
            <button
              class={hover === object.id ? "hovered" : ""}
              style={{ "--hue": hueOf(object.id) }}
              onClick={() => setState({ selection: { kind: "object", id: object.id } })}
              onPointerEnter={() => setState({ hover: object.id })}
              onPointerLeave={() => setState({ hover: null })}
            >
              <i class="dot" />
              <span>{g.describe(object)}</span>
              {changeOf(object) !== "same" && <em class={`badge ${changeOf(object)}`}>{t(changeOf(object) as "new" | "changed")}</em>}
            </button>
          </li>
        ))}
        {removed.map((object) => (
          <li key={object.id}>
            <button class="gone" style={{ "--hue": hueOf(object.id) }} onClick={() => restoreObject(object.id)} title={t("bringBack", { name: g.describe(object) })}>
              <i class="dot" />
              <s>{g.describe(object)}</s>
              <em class="badge gone">{t("gone")}</em>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

function ObjectForm({ graph, object }: { graph: g.Graph; object: g.SceneObject }) {
  return (
    <section class="inspector card" style={{ "--hue": hueOf(object.id) }}>
      <div class="title-row">
        <i class="dot" />
        <Combobox
          key={object.id}
          kind="object"
          label={t("name")}
          value={object.name}
          onChoose={(name) => changeGraph((draft) => g.changeObject(draft, object.id, { name }))}
        />
        <button class="tool small" aria-label={t("delete")} title={`${t("delete")} (Del)`} onClick={removeSelected}>
          <Icon name="trash" size={16} />
        </button>
        <button class="tool small" aria-label={t("deselect")} title={`${t("deselect")} (Esc)`} onClick={() => setState({ selection: null })}>
          <Icon name="close" size={16} />
        </button>
      </div>
      <Attributes object={object} />
      <Relations graph={graph} object={object} />
      <Place object={object} />
    </section>
  );
}

function Relations({ graph, object }: { graph: g.Graph; object: g.SceneObject }) {
  const own = (graph.triples ?? []).filter(([s, , o]) => s === object.id || o === object.id);
  return (
    <div class="field" role="group" aria-label={t("relations")}>
      <ul class="relations">
        {own.map((triple) => (
          <RelationRow key={g.tripleKey(triple)} graph={graph} triple={triple} from={object.id} />
        ))}
      </ul>
      <RelateForm key={object.id} graph={graph} object={object} />
    </div>
  );
}

function RelationRow({ graph, triple, from }: { graph: g.Graph; triple: g.Triple; from: string }) {
  const [subject, predicate, object] = triple;
  const name = (id: string) => g.describe(g.find(graph, id)!);
  return (
    <li>
      {subject !== from && <span class="end">{name(subject)}</span>}
      <PredicateSelect value={predicate} label={t("relation")} onChange={(value) => relateKeeping(subject, value, object)} />
      {object !== from && <span class="end">{name(object)}</span>}
      <button class="tool small" aria-label={t("removeThis", { name: `${predicate} ${name(object)}` })} onClick={() => relateKeeping(subject, null, object)}>
        <Icon name="close" size={14} />
      </button>
    </li>
  );
}

/** Changes a relation from within the form of an object, which stays selected. */
function relateKeeping(subject: string, predicate: string | null, object: string): void {
  changeGraph((draft) => g.relate(draft, subject, predicate, object));
}

function PredicateSelect({ value, label, onChange }: { value: string; label: string; onChange(value: string): void }) {
  const predicates = useStore((s) => s.vocabulary.predicates);
  const known = predicates.includes(value) || !value ? predicates : [value, ...predicates];
  return (
    <select aria-label={label} value={value} onChange={(event) => onChange(event.currentTarget.value)}>
      {!value && <option value="">{t("relation")}</option>}
      {known.map((predicate) => (
        <option key={predicate} value={predicate}>
          {predicate}
        </option>
      ))}
    </select>
  );
}

/** A new relation without the pointer: a predicate, then the other object. */
function RelateForm({ graph, object }: { graph: g.Graph; object: g.SceneObject }) {
  const others = graph.objects.filter((other) => other.id !== object.id);
  const predicates = useStore((s) => s.vocabulary.predicates);
  if (!others.length || !predicates.length) return null;
  return (
    <form
      class="relate"
      onSubmit={(event) => {
        event.preventDefault();
        const data = new FormData(event.currentTarget);
        relateKeeping(object.id, String(data.get("predicate")), String(data.get("object")));
      }}
    >
      <select name="predicate" aria-label={t("newRelation")}>
        {predicates.map((predicate) => (
          <option key={predicate}>{predicate}</option>
        ))}
      </select>
      <select name="object" aria-label={t("toObject")}>
        {others.map((other) => (
          <option key={other.id} value={other.id}>
            {g.describe(other)}
          </option>
        ))}
      </select>
      <button class="tool small" aria-label={t("addRelation")} title={t("addRelation")}>
        <Icon name="plus" size={16} />
      </button>
    </form>
  );
}

const MIDDLE: Box = [0.375, 0.375, 0.625, 0.625];
const percent = (share: number) => Math.round(100 * share);

function Place({ object }: { object: g.SceneObject }) {
  const { box } = object;
  return (
    <div class="place">
      {box ? (
        <p>
          <span class="numbers">
            {t("place")}: {percent(box[0])}, {percent(box[1])} – {percent(box[2])}, {percent(box[3])} %
          </span>
          <button class="link" onClick={() => setBox(object.id, null)}>
            {t("forgetPlace")}
          </button>
        </p>
      ) : (
        <p>
          <span>
            {t("place")}: {t("placeFollows")}
          </span>
          <button class="link" onClick={() => setBox(object.id, MIDDLE)}>
            {t("givePlace")}
          </button>
        </p>
      )}
    </div>
  );
}

function RelationForm({ graph, triple }: { graph: g.Graph; triple: g.Triple }) {
  const [subject, predicate, object] = triple;
  const [from, to] = [g.find(graph, subject)!, g.find(graph, object)!];
  return (
    <section class="inspector card">
      <div class="title-row">
        <h2>{t("relation")}</h2>
        <button class="tool small" aria-label={t("delete")} title={`${t("delete")} (Del)`} onClick={removeSelected}>
          <Icon name="trash" size={16} />
        </button>
        <button class="tool small" aria-label={t("deselect")} title={`${t("deselect")} (Esc)`} onClick={() => setState({ selection: null })}>
          <Icon name="close" size={16} />
        </button>
      </div>
      <p class="relation-line">
        <ObjectName object={from} />
        <PredicateSelect value={predicate} label={t("relation")} onChange={(value) => relate(subject, value, object)} />
        <ObjectName object={to} />
      </p>
    </section>
  );
}

/** An object's name in its colour; hovering shows it in picture and graph. */
export function ObjectName({ object }: { object: Pick<g.SceneObject, "id" | "name" | "attributes"> }) {
  return (
    <b
      class="object-name"
      style={{ "--hue": hueOf(object.id) }}
      onPointerEnter={() => setState({ hover: object.id })}
      onPointerLeave={() => setState({ hover: null })}
    >
      {[...(object.attributes ?? []), object.name].join(" ")}
    </b>
  );
}
