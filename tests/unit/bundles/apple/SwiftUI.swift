// Declarations of Apple's SwiftUI, as its documentation has them and as far as our sources use them.

@_exported import CoreGraphics

@MainActor @preconcurrency public protocol View {
    associatedtype Body: View
    var body: Body { get }
}
extension Never: View {
    public var body: Never { fatalError() }
}
extension Optional: View where Wrapped: View {
    public var body: Never { fatalError() }
}
/// Any view whose own type does not matter here.
public struct Some: View {
    public var body: Never { fatalError() }
}
@resultBuilder public struct ViewBuilder {
    public static func buildBlock<each Content: View>(_ content: repeat each Content) -> Some { Some() }
    public static func buildIf<Content: View>(_ content: Content?) -> Content? { content }
}
@MainActor @preconcurrency public protocol Scene {}
@MainActor @preconcurrency public protocol App {
    associatedtype Body: Scene
    var body: Body { get }
    init()
}
extension App {
    public static func main() {}
}
@propertyWrapper public struct State<Value> {
    public init(wrappedValue: Value) { self.wrappedValue = wrappedValue }
    public var wrappedValue: Value { get { fatalError() } nonmutating set {} }
    public var projectedValue: Binding<Value> { fatalError() }
}
extension State where Value: ExpressibleByNilLiteral {
    public init() { self.init(wrappedValue: nil) }
}
public struct Binding<Value> {}
public struct Font: Sendable {
    public enum Design: Sendable { case `default`, monospaced }
    public static let caption = Font()
    public static func system(size: CGFloat, weight: Int? = nil, design: Design? = nil) -> Font { Font() }
}
public struct WindowGroup<Content: View>: Scene {
    public init(@ViewBuilder content: () -> Content) {}
}
public protocol ShapeStyle: Sendable {}
public struct Color: ShapeStyle {
    public static let white = Color(hue: 0, saturation: 0, brightness: 1)
    public init(hue: Double, saturation: Double, brightness: Double, opacity: Double = 1) {}
}
public struct Path: Sendable { public init(_ rect: CGRect) {} }
public enum ContentMode: Sendable { case fit, fill }
public struct EmptyView: View { public var body: Never { fatalError() } }
public struct Image: View {
    public enum Orientation: Sendable { case up, down, left, right }
    public init(decorative cgImage: CGImage, scale: CGFloat, orientation: Orientation = .up) {}
    public var body: Never { fatalError() }
}
public struct FillStyle: Sendable { public init() {} }
public struct GraphicsContext {
    public struct Shading: Sendable { public static func color(_ color: Color) -> Shading { Shading() } }
    public struct ResolvedText { public func measure(in size: CGSize) -> CGSize { size } }
    public func resolve(_ text: Text) -> ResolvedText { ResolvedText() }
    public func draw(_ image: Image, in rect: CGRect, style: FillStyle = FillStyle()) {}
    public func draw(_ text: ResolvedText, in rect: CGRect) {}
    public func fill(_ path: Path, with shading: Shading, style: FillStyle = FillStyle()) {}
    public func stroke(_ path: Path, with shading: Shading, lineWidth: CGFloat = 1) {}
}
public struct Canvas<Symbols: View>: View {
    public init(
        opaque: Bool = false, rendersAsynchronously: Bool = false,
        renderer: @escaping (inout GraphicsContext, CGSize) -> Void
    ) where Symbols == EmptyView {}
    public var body: Never { fatalError() }
}
public struct Text: View {
    public init<S: StringProtocol>(_ content: S) {}
    public func font(_ font: Font?) -> Text { self }
    public func foregroundStyle<S: ShapeStyle>(_ style: S) -> Text { self }
    public var body: Never { fatalError() }
}
public struct VStack<Content: View>: View {
    public init(spacing: CGFloat? = nil, @ViewBuilder content: () -> Content) {}
    public var body: Never { fatalError() }
}
public struct ScrollView<Content: View>: View {
    public init(@ViewBuilder content: () -> Content) {}
    public var body: Never { fatalError() }
}
public struct NavigationStack<Root: View>: View {
    public init(@ViewBuilder root: () -> Root) {}
    public var body: Never { fatalError() }
}
public struct List<Content: View>: View {
    public init(@ViewBuilder content: () -> Content) {}
    public var body: Never { fatalError() }
}
public struct ForEach<Data: RandomAccessCollection, ID: Hashable, Content: View>: View {
    public init(_ data: Data, id: KeyPath<Data.Element, ID>, @ViewBuilder content: @escaping (Data.Element) -> Content) {}
    public var body: Never { fatalError() }
}
public struct Button: View {
    public init<S: StringProtocol>(_ title: S, action: @escaping @MainActor () -> Void) {}
    public var body: Never { fatalError() }
}
public struct LabeledContent: View {
    public init<S1: StringProtocol, S2: StringProtocol>(_ title: S1, value: S2) {}
    public var body: Never { fatalError() }
}
public struct ShareLink: View {
    public init(item: String) {}
    public var body: Never { fatalError() }
}
extension View {
    public func aspectRatio(_ aspectRatio: CGFloat? = nil, contentMode: ContentMode) -> some View { Some() }
    public func font(_ font: Font?) -> some View { Some() }
    public func padding() -> some View { Some() }
    public func task(_ action: @escaping @Sendable () async -> Void) -> some View { Some() }
    public func toolbar<Content: View>(@ViewBuilder content: () -> Content) -> some View { Some() }
    public func onChange<V: Equatable>(of value: V, _ action: @escaping () -> Void) -> some View { Some() }
}
