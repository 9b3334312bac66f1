/** The live side: one connection for the tab, and the channels that the page follows. */

import { Centrifuge, State, type Subscription, SubscriptionState } from 'centrifuge';
import type { Position } from './types';

/** How long the connection may be away before the page says so. */
const PATIENCE_MS = 5_000;
/** After a refusal that is not about who we are. */
const LATER_MS = 10_000;
const INVALID_SESSION = 3500;
const SENT_AWAY = 3503;

export interface LiveEvents {
  /** The link is there, or is being looked for. */
  onState(connected: boolean): void;
  /** It has been away for a while; or it is back. */
  onOffline(offline: boolean): void;
  /** The server does not want this session any more. */
  onEnded(): void;
}

export interface ChannelEvents {
  onPublication(data: unknown, user: string, info: unknown): void;
  onJoin?(user: string, info: unknown): void;
  onLeave?(user: string): void;
  /** It is live; `gap`: something was missed that cannot be recovered. */
  onSubscribed?(gap: boolean): void;
}

export class Live {
  readonly #client: Centrifuge;
  #patience: ReturnType<typeof setTimeout> | undefined;

  constructor(events: LiveEvents) {
    const http = location.origin;
    const ws = http.replace(/^http/, 'ws');
    this.#client = new Centrifuge(
      [
        { transport: 'websocket', endpoint: `${ws}/connection/websocket` },
        // For networks that let no WebSocket through.
        { transport: 'http_stream', endpoint: `${http}/connection/http_stream` },
        { transport: 'sse', endpoint: `${http}/connection/sse` },
      ],
      { emulationEndpoint: `${http}/emulation`, minReconnectDelay: 200, maxReconnectDelay: 5_000 },
    );
    const away = () => {
      events.onState(false);
      this.#patience ??= setTimeout(() => events.onOffline(true), PATIENCE_MS);
    };
    this.#client.on('connecting', away);
    this.#client.on('connected', () => {
      clearTimeout(this.#patience);
      this.#patience = undefined;
      events.onOffline(false);
      events.onState(true);
    });
    this.#client.on('disconnected', (context) => {
      // Code 0 is our own disconnect(); the others are the server's last word.
      if (context.code === INVALID_SESSION || context.code === SENT_AWAY) events.onEnded();
      else if (context.code !== 0) setTimeout(() => this.connect(), LATER_MS);
    });
    // A tab that wakes, or a network that is back, need not wait for the next attempt.
    addEventListener('online', () => this.hurry());
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible') this.hurry();
    });
  }

  connect(): void {
    this.#client.connect();
  }

  close(): void {
    clearTimeout(this.#patience);
    this.#client.disconnect();
  }

  /** If the connection is being looked for, look now. */
  hurry(): void {
    if (this.#client.state !== State.Connecting) return;
    this.#client.disconnect();
    this.#client.connect();
  }

  get connected(): boolean {
    return this.#client.state === State.Connected;
  }

  /** Follow a channel, from a position if one is known. */
  follow(channel: string, events: ChannelEvents, since?: Position): Channel {
    const old = this.#client.getSubscription(channel);
    if (old) this.#client.removeSubscription(old);
    const subscription = this.#client.newSubscription(channel, {
      ...(since ? { since, recoverable: true } : {}),
      joinLeave: events.onJoin !== undefined,
    });
    subscription.on('publication', (context) =>
      events.onPublication(context.data, context.info?.user ?? '', context.info?.connInfo),
    );
    subscription.on('join', (context) => events.onJoin?.(context.info.user, context.info.connInfo));
    subscription.on('leave', (context) => events.onLeave?.(context.info.user));
    subscription.on('subscribed', (context) =>
      events.onSubscribed?.(context.wasRecovering && !context.recovered),
    );
    subscription.subscribe();
    return new Channel(this.#client, subscription);
  }
}

export class Channel {
  constructor(
    readonly client: Centrifuge,
    readonly subscription: Subscription,
  ) {}

  /** Say something to whoever is here now; nobody waits for it. */
  whisper(data: unknown): void {
    if (this.subscription.state !== SubscriptionState.Subscribed) return;
    this.subscription.publish(data).catch(() => undefined);
  }

  /** Everybody's id and what is known about them. */
  async present(): Promise<[string, unknown][]> {
    const { clients } = await this.subscription.presence();
    return Object.values(clients).map((client) => [client.user, client.connInfo]);
  }

  close(): void {
    this.client.removeSubscription(this.subscription);
  }
}
