/** The options of an edit, made from the server's one list: those that matter in sight, the rest folded away. */

import { useId, useState } from "preact/hooks";
import { setOption, sweepValues } from "../actions/edits";
import type { OptionSpec, OptionValue } from "../api/types";
import { isCanvas, setState, useStore } from "../store";
import { optionTexts, t } from "../texts";
import { Icon } from "./icons";
import { Sources } from "./Sources";

export function Options() {
  const canvas = useStore(isCanvas);
  const specs = useStore((s) => s.optionLists[canvas ? "sample" : "edit"]);
  const describing = useStore((s) => s.mode === "describe");
  useStore((s) => s.options);
  if (describing && !canvas) return null;
  const main = specs.filter((spec) => spec.group === "main");
  const more = specs.filter((spec) => spec.group === "more");
  return (
    <section class="options card">
      <h2>{t("options")}</h2>
      <div class="option-grid">
        {main.map((spec) => (
          <Option key={spec.name} spec={spec} />
        ))}
      </div>
      {!canvas && <Sources />}
      <details onToggle={showOpened}>
        <summary>
          <Icon name="chevron" size={14} /> {t("sweep")}
        </summary>
        <Sweep specs={specs} />
      </details>
      {more.length > 0 && (
        <details onToggle={showOpened}>
          <summary>
            <Icon name="chevron" size={14} /> {t("moreOptions")}
            <ChangedCount specs={more} />
          </summary>
          <div class="option-list">
            {more.map((spec) => (
              <Option key={spec.name} spec={spec} explained />
            ))}
          </div>
        </details>
      )}
    </section>
  );
}

/** What was unfolded below the edge comes into sight. */
function showOpened(event: Event): void {
  const details = event.currentTarget as HTMLDetailsElement;
  if (details.open) details.scrollIntoView({ block: details.offsetHeight > 320 ? "start" : "nearest" });
}

function ChangedCount({ specs }: { specs: OptionSpec[] }) {
  const changed = useStore((s) => specs.filter((spec) => spec.name in s.options).length);
  return changed ? <span class="count">{changed}</span> : null;
}

function Option({ spec, explained = false }: { spec: OptionSpec; explained?: boolean }) {
  const value = useStore((s) => s.options[spec.name]);
  const used = useStore((s) => (s.plan.status === "ready" ? s.plan.plan.options[spec.name] : undefined));
  const [asked, setAsked] = useState(false);
  const id = useId();
  const { label, help } = optionTexts(spec);
  const shown = explained || asked;
  return (
    <div class={`option ${spec.type}${value !== undefined ? " changed" : ""}${asked ? " asked" : ""}`}>
      <div class="option-head">
        <label for={id}>{label}</label>
        {!explained && (
          <button class="info" aria-expanded={asked} aria-label={t("helpFor", { name: label })} title={help} onClick={() => setAsked(!asked)}>
            ?
          </button>
        )}
      </div>
      <div class="field-row">
        <Field spec={spec} id={id} value={value} used={used} />
      </div>
      <p id={`${id}-help`} class="help" hidden={!shown}>
        {help}
        {spec.default_text && (
          <>
            {" "}
            <em>{t("defaultIs", { value: spec.default_text })}</em>
          </>
        )}
        <code>{spec.flag}</code>
      </p>
    </div>
  );
}

interface FieldProps {
  spec: OptionSpec;
  id: string;
  value: OptionValue | undefined;
  used: OptionValue | undefined;
}

function Field({ spec, id, value, used }: FieldProps) {
  const described = { id, "aria-describedby": `${id}-help` };
  const set = (next: OptionValue | undefined) => setOption(spec.name, next);
  const standard = used ?? spec.default;
  if (spec.type === "boolean") {
    return <input {...described} type="checkbox" checked={Boolean(value ?? spec.default)} onChange={(event) => set(event.currentTarget.checked || undefined)} />;
  }
  if (spec.type === "choice") {
    return (
      <select {...described} value={String(value ?? "")} onChange={(event) => set(event.currentTarget.value || undefined)}>
        <option value="">{standard === null ? t("automatic") : t("automaticIs", { value: String(standard) })}</option>
        {(spec.choices ?? []).map((choice) => (
          <option key={choice} value={choice}>
            {choice}
          </option>
        ))}
      </select>
    );
  }
  if (spec.type === "text") {
    return <input {...described} type="text" value={String(value ?? "")} onChange={(event) => set(event.currentTarget.value || undefined)} />;
  }
  if (spec.type === "numbers") return <Numbers spec={spec} id={id} value={value as number[] | undefined} />;
  const number = (
    <input
      {...described}
      type="number"
      inputMode={spec.type === "integer" ? "numeric" : "decimal"}
      step={spec.type === "integer" ? 1 : "any"}
      min={spec.minimum ?? undefined}
      max={spec.maximum ?? undefined}
      placeholder={standard === null || standard === undefined ? t("auto") : String(standard)}
      value={value === undefined ? "" : String(value)}
      onChange={(event) => {
        const text = event.currentTarget.value;
        set(text === "" || Number.isNaN(Number(text)) ? undefined : Number(text));
      }}
    />
  );
  if (spec.name !== "seed") return number;
  return (
    <>
      {number}
      <button class="tool small" aria-label={t("randomSeed")} title={t("randomSeed")} onClick={() => set(Math.floor(Math.random() * 1e6))}>
        <Icon name="dice" size={16} />
      </button>
    </>
  );
}

/** As many numbers as the option has names for; all of them or none. */
function Numbers({ spec, id, value }: { spec: OptionSpec; id: string; value: number[] | undefined }) {
  const names = spec.metavar ?? [];
  const [texts, setTexts] = useState<string[]>(names.map((_, i) => (value ? String(value[i]) : "")));
  const standard = Array.isArray(spec.default) ? spec.default : [];
  function change(index: number, text: string): void {
    const next = texts.map((old, i) => (i === index ? text : old));
    setTexts(next);
    if (next.every((each) => each === "")) setOption(spec.name, undefined);
    else if (next.every((each) => each !== "" && !Number.isNaN(Number(each)))) setOption(spec.name, next.map(Number));
  }
  return (
    <div class="numbers-row">
      {names.map((name, i) => (
        <input
          key={name}
          id={i === 0 ? id : undefined}
          type="number"
          step="any"
          aria-label={name.toLowerCase()}
          placeholder={standard[i] === undefined ? name.toLowerCase() : String(standard[i])}
          value={texts[i]}
          onChange={(event) => change(i, event.currentTarget.value)}
        />
      ))}
    </div>
  );
}

/** One edit per value of an option. */
function Sweep({ specs }: { specs: OptionSpec[] }) {
  const sweep = useStore((s) => s.sweep);
  const invalid = sweep !== null && sweep.values !== "" && !sweepValues(sweep.values);
  return (
    <div class="option-list">
      <p class="help">{t("sweepHelp")}</p>
      <div class="sweep-fields">
        <select
          aria-label={t("sweepOption")}
          value={sweep?.option ?? ""}
          onChange={(event) => {
            const option = event.currentTarget.value;
            setState({ sweep: option ? { option, values: sweep?.values ?? "" } : null });
          }}
        >
          <option value="">{t("noSweep")}</option>
          {specs
            .filter((spec) => spec.sweep)
            .map((spec) => (
              <option key={spec.name} value={spec.name}>
                {optionTexts(spec).label}
              </option>
            ))}
        </select>
        <input
          type="text"
          inputMode="decimal"
          aria-label={t("sweepValues")}
          aria-invalid={invalid}
          placeholder="1, 3, 5"
          disabled={!sweep}
          value={sweep?.values ?? ""}
          onInput={(event) => sweep && setState({ sweep: { ...sweep, values: event.currentTarget.value } })}
        />
      </div>
      {invalid && <p class="field-error">{t("sweepInvalid")}</p>}
    </div>
  );
}
