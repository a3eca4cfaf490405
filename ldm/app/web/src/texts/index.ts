/** The page's words in the chosen language. */

import { remember } from "../memory";
import { getState, setState } from "../store";
import { en } from "./en";
import { ko } from "./ko";
import { optionsKo } from "./options_ko";
import { serverEn } from "./server_en";
import { serverKo } from "./server_ko";
import type { Example, OptionSpec } from "../api/types";

export { remember, remembered } from "../memory";
export type Language = "en" | "ko";
export type TextKey = keyof typeof en;
export type ServerCode = keyof typeof serverEn;
export type Values = Record<string, string | number>;

const TEXTS: Record<Language, Record<TextKey, string>> = { en, ko };
const SERVER: Record<Language, Record<ServerCode, string>> = { en: serverEn, ko: serverKo };

export function t(key: TextKey, values: Values = {}): string {
  return fill(TEXTS[getState().language][key], values);
}

const fill = (text: string, values: Values) => text.replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));

/** A sentence of the server, in the page's language where its code is known. */
export function serverWords(sentence: string, code = "", values: Values = {}): string {
  const { language } = getState();
  if (!(code in SERVER[language])) return t("serverSays", { sentence });
  const shown = Object.entries(values).map(([name, value]) => [name, shownValue(name, value, language)]);
  const text = fill(SERVER[language][code as ServerCode], Object.fromEntries(shown));
  return values.similar ? `${text} ${t("didYouMean", { names: values.similar })}` : text;
}

function shownValue(name: string, value: string | number, language: Language): string {
  if (name === "option") return optionLabel(String(value));
  return typeof value === "number" ? value.toLocaleString(language) : value;
}

/** The pieces of a text whose places are filled with elements: words, and names of places. */
export function pieces(key: TextKey): { text?: string; place?: string }[] {
  return TEXTS[getState().language][key]
    .split(/(\{\w+\})/)
    .filter(Boolean)
    .map((piece) => (piece.startsWith("{") ? { place: piece.slice(1, -1) } : { text: piece }));
}

/** Label, default and help of an option. The server knows English; other languages have their own list. */
export function optionTexts(spec: OptionSpec): { label: string; help: string } {
  const translated = getState().language === "ko" ? optionsKo[spec.name] : undefined;
  return translated ?? { label: spec.label, help: spec.help };
}

export function chooseLanguage(language: Language): void {
  document.documentElement.lang = language;
  remember("language", language);
  setState({ language });
}

export function chooseTheme(theme: "system" | "light" | "dark"): void {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  remember("theme", theme);
  setState({ theme });
}

/** The title of an example; a photograph has its own name. */
export function exampleTitle({ id, title, number }: Example): string {
  if (number) return t(id.startsWith("drawn") ? "drawnScene" : "scene", { number });
  return id === "example" ? t("example") : title;
}

/** The label of an option by its name. */
export function optionLabel(name: string): string {
  const { edit, sample } = getState().optionLists;
  const spec = [...edit, ...sample].find((other) => other.name === name);
  return spec ? optionTexts(spec).label : name;
}
