/** The boxes over the picture: drawn, selected, moved and resized by pointer, touch and keys. */

import { useRef } from "preact/hooks";
import * as geo from "../model/geometry";
import { find, type Graph, objectChange, removedObjects, type SceneObject } from "../model/graph";
import type { Plan } from "../api/types";
import { doc, selectedObject, setState, shownGraph, useStore } from "../store";
import { t } from "../texts";
import { useBoxDrags } from "./boxDrags";
import { type Frame, pixels } from "./boxes";
import { BoxShape, Ghost, Region, RemovedBox, Way } from "./BoxShapes";
import { focusName } from "./hooks";
import { placeLabels } from "./labels";

export function Overlay({ width, height }: Frame) {
  const graph = useStore(shownGraph);
  const source = useStore((s) => doc(s)?.source ?? null);
  const plan = useStore((s) => (s.plan.status === "ready" || s.plan.status === "stale" ? s.plan.plan : null));
  const selected = useStore(selectedObject);
  const tool = useStore((s) => s.tool);
  const svg = useRef<SVGSVGElement>(null);
  const { drawn, handlers } = useBoxDrags(svg, { width, height });
  const removed = source ? removedObjects(source, graph) : [];
  return (
    <svg
      ref={svg}
      class={`overlay tool-${tool}`}
      viewBox={`0 0 ${width} ${height}`}
      role="group"
      aria-label={t("boxesOnPicture")}
      onMouseDown={(event) => event.preventDefault() /* the focus goes to what was hit, not to what lies on top */}
      onDblClick={() => selected !== null && focusName()}
      {...handlers}
    >
      {plan?.region && <Region png={plan.region.png} width={width} height={height} />}
      {removed.map((object) => object.box && <RemovedBox key={object.id} object={object} box={object.box} {...{ width, height }} />)}
      <Ways {...{ graph, source, plan, width, height }} />
      <Boxes {...{ graph, source, selected, width, height }} />
      {drawn && <rect class="drawn" {...pixels(drawn, width, height)} />}
    </svg>
  );
}

/** From where boxes came, and where things would go that have none. */
function Ways({ graph, source, plan, width, height }: Frame & { graph: Graph; source: Graph | null; plan: Plan | null }) {
  return (
    <>
      {graph.objects.map((object) => {
        const before = source && find(source, object.id)?.box;
        const placed = plan?.placed.find((place) => place.object === object.id);
        return (
          <g key={object.id}>
            {before && object.box && before.some((value, i) => value !== object.box![i]) && (
              <Way before={before} after={object.box} {...{ width, height }} />
            )}
            {placed && <Ghost id={object.id} box={placed.box} before={placed.before} {...{ width, height }} />}
          </g>
        );
      })}
    </>
  );
}

function Boxes({ graph, source, selected, width, height }: Frame & { graph: Graph; source: Graph | null; selected: string | null }) {
  const hover = useStore((s) => s.hover);
  const labels = placeLabels(graph.objects, selected, hover, width, height);
  return (
    <>
      {[...graph.objects].sort(largestFirst).map((object) =>
        object.box ? (
          <BoxShape
            key={object.id}
            object={object}
            box={object.box}
            selected={object.id === selected}
            hovered={object.id === hover}
            changed={source !== null && objectChange(source, object) !== "same"}
            labelX={labels.get(object.id)?.x}
            labelY={labels.get(object.id)?.y}
            labelWidth={labels.get(object.id)?.width}
            labelText={labels.get(object.id)?.text}
            {...{ width, height }}
          />
        ) : null,
      )}
    </>
  );
}

const largestFirst = (a: SceneObject, b: SceneObject) => (b.box ? geo.area(b.box) : 0) - (a.box ? geo.area(a.box) : 0);

/** Adds a box in the middle, for those who draw none. */
export function addInTheMiddle(): void {
  setState({ prompt: { kind: "name", box: [0.375, 0.375, 0.625, 0.625] } });
}
