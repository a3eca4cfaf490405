/** The attributes of an object as chips: all that there are where they are few, else those that it has and a field. */

import { changeGraph } from "../actions/draft";
import { addAttribute, removeAttribute, type SceneObject } from "../model/graph";
import { useStore } from "../store";
import { t } from "../texts";
import { Combobox } from "./Combobox";
import { Icon } from "./icons";

const FEW = 24;

export function Attributes({ object }: { object: SceneObject }) {
  const all = useStore((s) => s.vocabulary.attributes);
  const groups = useStore((s) => s.vocabulary.attribute_groups);
  const own = object.attributes ?? [];
  if (!all.length) return null;
  const add = (name: string) => changeGraph((draft) => addAttribute(draft, object.id, name, groups));
  const remove = (name: string) => changeGraph((draft) => removeAttribute(draft, object.id, name));
  const few = all.length <= FEW;
  const rest = all.filter((name) => !groups.some((group) => group.includes(name)));
  const rows = few ? [...groups, rest].filter((row) => row.length) : [];
  const foreign = few ? own.filter((name) => !all.includes(name)) : own;
  return (
    <div class="field" role="group" aria-label={t("attributes")}>
      {rows.map((row) => (
        <div class="chips" key={row[0]}>
          {row.map((name) => (
            <button key={name} class="chip" aria-pressed={own.includes(name)} onClick={() => (own.includes(name) ? remove(name) : add(name))}>
              <Swatch name={name} />
              {name}
            </button>
          ))}
        </div>
      ))}
      {foreign.length > 0 && (
        <div class="chips">
          {foreign.map((name) => (
            <span key={name} class="chip own">
              <Swatch name={name} />
              {name}
              <button aria-label={t("removeThis", { name })} onClick={() => remove(name)}>
                <Icon name="close" size={12} />
              </button>
            </span>
          ))}
        </div>
      )}
      {!few && <Combobox kind="attribute" label={t("addAttribute")} placeholder={t("addAttribute")} exclude={own} onChoose={add} />}
    </div>
  );
}

/** A dot in the colour that the name is of, if it is one. */
function Swatch({ name }: { name: string }) {
  const colour = /^[a-z]+$/.test(name) && name !== "transparent" && CSS.supports("color", name);
  return colour ? <i class="swatch" style={{ backgroundColor: name }} /> : null;
}
