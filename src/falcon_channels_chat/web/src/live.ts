/** The connection of this tab, and its subscriptions to channels. */

import { Centrifuge, State, type Subscription, SubscriptionState } from 'centrifuge';
import type { Position } from './types';

/** After this time without a connection the page says that it is offline. */
const OFFLINE_AFTER_MS = 5_000;
/** Delay before connecting again after the server ended the connection. */
const RECONNECT_MS = 10_000;
/** Close codes that end the session: the cookie is invalid, or the member has left. */
const INVALID_SESSION = 3500;
const FORCED_DISCONNECT = 3503;

export interface LiveEvents {
  /** Called when the connection is established or lost. */
  onState(connected: boolean): void;
  /** Called when the connection was lost for some seconds, and when it is back. */
  onOffline(offline: boolean): void;
  /** Called when the server has ended the session. */
  onSessionEnded(): void;
}

export interface ChannelEvents {
  onPublication(data: unknown, user: string, info: unknown): void;
  onJoin?(user: string, info: unknown): void;
  onLeave?(user: string): void;
  /**
   * Called after subscribing. `missed` is true if publications were lost that the
   * server cannot recover.
   */
  onSubscribed?(missed: boolean): void;
  /** Called when the server has refused or ended the subscription. */
  onRefused?(): void;
}

export class Live {
  readonly #client: Centrifuge;
  #offlineTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(member: string, events: LiveEvents) {
    const http = location.origin;
    const ws = http.replace(/^http/, 'ws');
    this.#client = new Centrifuge(
      [
        { transport: 'websocket', endpoint: `${ws}/connection/websocket` },
        // Used in networks that block WebSockets.
        { transport: 'http_stream', endpoint: `${http}/connection/http_stream` },
        { transport: 'sse', endpoint: `${http}/connection/sse` },
      ],
      {
        emulationEndpoint: `${http}/emulation`,
        minReconnectDelay: 200,
        maxReconnectDelay: 5_000,
        // The server refuses the connection if the cookie is that of another member.
        data: { member },
      },
    );
    const onConnecting = () => {
      events.onState(false);
      this.#offlineTimer ??= setTimeout(() => events.onOffline(true), OFFLINE_AFTER_MS);
    };
    this.#client.on('connecting', onConnecting);
    this.#client.on('connected', () => {
      clearTimeout(this.#offlineTimer);
      this.#offlineTimer = undefined;
      events.onOffline(false);
      events.onState(true);
    });
    this.#client.on('disconnected', (context) => {
      // Code 0 means that this page called disconnect(). After any other code the SDK
      // does not reconnect by itself.
      const ended = context.code === INVALID_SESSION || context.code === FORCED_DISCONNECT;
      if (ended) events.onSessionEnded();
      else if (context.code !== 0) {
        onConnecting();
        setTimeout(() => this.connect(), RECONNECT_MS);
      }
    });
    // When the network is back or the tab becomes visible, do not wait for the next
    // scheduled attempt.
    addEventListener('online', () => this.reconnectNow());
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible') this.reconnectNow();
    });
  }

  connect(): void {
    this.#client.connect();
  }

  close(): void {
    clearTimeout(this.#offlineTimer);
    this.#client.disconnect();
  }

  /** If there is no connection, connect now, and do not wait for the next attempt. */
  reconnectNow(): void {
    if (this.connected) return;
    this.#client.disconnect();
    this.#client.connect();
  }

  get connected(): boolean {
    return this.#client.state === State.Connected;
  }

  /** Subscribe to a channel, from a position if one is given. */
  subscribe(channel: string, events: ChannelEvents, since?: Position): Channel {
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
    // Code 0 means that this page has ended the subscription.
    subscription.on('unsubscribed', (context) => context.code !== 0 && events.onRefused?.());
    subscription.subscribe();
    return new Channel(this.#client, subscription);
  }
}

export class Channel {
  constructor(
    readonly client: Centrifuge,
    readonly subscription: Subscription,
  ) {}

  /** Publish data if the channel is subscribed; ignore errors. */
  publishIfSubscribed(data: unknown): void {
    if (this.subscription.state !== SubscriptionState.Subscribed) return;
    this.subscription.publish(data).catch(() => undefined);
  }

  /** Get the user id and the connection info of all subscribers. */
  async presence(): Promise<[string, unknown][]> {
    const { clients } = await this.subscription.presence();
    return Object.values(clients).map((client) => [client.user, client.connInfo]);
  }

  close(): void {
    this.client.removeSubscription(this.subscription);
  }
}
