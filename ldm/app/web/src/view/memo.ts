/** Views that are drawn again only when one of their properties is another value. */

import { Component, type ComponentChild, type FunctionComponent } from "preact";

export function memo<P extends object>(view: (props: P) => ComponentChild): FunctionComponent<P> {
  class Memo extends Component<P> {
    override shouldComponentUpdate(next: Readonly<P>): boolean {
      const names = new Set([...Object.keys(this.props), ...Object.keys(next)]) as Set<keyof P & string>;
      return [...names].some((name) => !Object.is((this.props as P)[name], (next as P)[name]));
    }
    override render(props: P): ComponentChild {
      return view(props);
    }
  }
  return Memo as unknown as FunctionComponent<P>;
}
