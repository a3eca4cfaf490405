/** The values of the HTTP interface (docs/app_api.md). */

import type { Box } from "../model/geometry";
import type { GraphJson } from "../model/graph";

export interface Picture {
  id: string;
  url: string;
  width: number;
  height: number;
}

export interface AppInfo {
  protocol: number;
  version: string;
  model: {
    name: string;
    image_size: number;
    max_objects: number;
    device: string;
    styles: boolean;
    attention: boolean;
    clips: boolean;
  };
  reader: string | null;
  reader_note: string;
  limits: { image_bytes: number; image_pixels: number; graph_bytes: number; variants: number };
}

export type OptionValue = number | boolean | string | number[] | null;

export interface OptionSpec {
  name: string;
  flag: string;
  label: string;
  group: "main" | "more";
  type: "integer" | "number" | "boolean" | "choice" | "numbers" | "text";
  optional: boolean;
  default: OptionValue;
  default_text: string | null;
  help: string;
  choices: string[] | null;
  minimum: number | null;
  maximum: number | null;
  above: number | null;
  metavar: string[] | null;
  sweep: boolean;
}

export interface OptionLists {
  edit: OptionSpec[];
  sample: OptionSpec[];
}

export interface Vocabulary {
  objects: string[];
  predicates: string[];
  attributes: string[];
  attribute_groups: string[][];
  converse: Record<string, string>;
  spatial: string[];
}

export type WordKind = "object" | "predicate" | "attribute";

export interface Resolution {
  text: string;
  name: string | null;
  suggestions: { name: string; note: string }[];
}

export interface Example {
  id: string;
  title: string;
  number: number; // of the scene, 0 for a photograph with a name
  image: Omit<Picture, "id">;
  objects: number;
}

export interface SessionSummary {
  id: string;
  title: string;
  created: string;
  updated: string;
  edits: number;
  image: Picture | null;
}

export interface SceneNode {
  id: number;
  session: string;
  parent: number | null;
  kind: "photograph" | "canvas" | "edit" | "sample";
  created: string;
  image: Picture | null;
  size?: { width: number; height: number };
  graph: GraphJson | null;
  draft: GraphJson | null;
  job: number | null;
  difference: string | null;
  sentences: string[] | null;
  operations: Operation[] | null; // null for a sampled picture
  options: { given: Record<string, OptionValue>; used: Record<string, OptionValue> } | null;
  n: number | null;
  sweep: Sweep | null;
  style: Picture | null;
  mask: Picture | null;
  region: Picture | null;
  region_share: number | null;
  attention: { object: string; image: Picture }[] | null;
  verdict: { passed: boolean; complaints: string[] } | null;
  seconds: number | null;
}

export interface Session {
  id: string;
  title: string;
  created: string;
  updated: string;
  current: number;
  can_undo: boolean;
  can_redo: boolean;
  nodes: SceneNode[];
  jobs: Job[];
}

export interface Job {
  id: number;
  session: string;
  node: number;
  kind: "edit" | "sample" | "attention" | "clip";
  state: "queued" | "running" | "done" | "cancelled" | "failed";
  place: number;
  created: string;
  variant: number; // from 0
  variants: number;
  stage: "inverting" | "editing" | "sampling" | "";
  step: number;
  steps: number;
  fraction: number;
  nodes: number[];
  error: string | null;
  error_code: string;
  error_values: Record<string, string | number>;
}

/** A clip that is played: a data URL, and the size of its frames. */
export interface Clip {
  image: string;
  width: number;
  height: number;
  frames: number;
}

export interface Sweep {
  option: string;
  values: number[];
}

export interface PlanRequest {
  node: number;
  graph: GraphJson;
  style?: string;
  mask?: string;
  options?: Record<string, OptionValue>;
}

export interface EditRequest extends PlanRequest {
  n?: number;
  sweep?: Sweep;
  attention?: boolean;
  previews?: boolean;
}

export type OperationKind =
  | "replace"
  | "remove"
  | "add"
  | "move"
  | "resize"
  | "attribute"
  | "add_relation"
  | "remove_relation"
  | "change_relation";

export interface Operation {
  kind: OperationKind;
  text: string;
  object: string;
  other?: string;
  boxes: Box[];
}

export interface Plan {
  sentences: string[];
  operations: Operation[];
  graph: GraphJson;
  placed: { object: string; box: Box; before: Box | null }[];
  placement: string;
  dropped?: [string, string, string][];
  nothing: boolean;
  everywhere: boolean;
  region: { png: string; width: number; height: number } | null;
  region_share: number | null;
  region_note: string;
  region_code: string;
  options: Record<string, OptionValue>;
  seconds: number | null;
}

export interface Comparison {
  sentences: string[];
  operations: Operation[] | null; // null where a graph is not known
  changed_share: number | null;
}

export interface ReadGraphs {
  graphs: GraphJson[];
  note: string;
  unknown: string[];
  unknown_names: string[];
}

export type ServerEvent =
  | { type: "hello"; protocol: number; session: Session }
  | { type: "job"; job: Job }
  | {
      type: "progress";
      job: number;
      variant: number;
      variants: number;
      stage: Job["stage"];
      step: number;
      steps: number;
      fraction: number;
    }
  | { type: "preview"; job: number; variant: number; image: string; width: number; height: number }
  | ({ type: "clip"; job: number } & Clip)
  | { type: "node"; node: SceneNode; job: number }
  | { type: "session"; session: Session }
  | { type: "deleted"; session: string }
  | { type: "pong" };
