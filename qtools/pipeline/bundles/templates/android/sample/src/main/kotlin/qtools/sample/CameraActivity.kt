package qtools.sample

import android.Manifest
import android.graphics.Color
import android.os.Bundle
import android.view.Gravity
import android.view.ViewGroup.LayoutParams.MATCH_PARENT
import android.view.ViewGroup.LayoutParams.WRAP_CONTENT
import android.widget.FrameLayout
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.ImageProxy
import androidx.camera.view.CameraController
import androidx.camera.view.LifecycleCameraController
import androidx.camera.view.PreviewView
import java.util.concurrent.Executors
import qtools.core.Box
import qtools.core.Picture
import qtools.core.uncut
import qtools.vision.Classifier
import qtools.vision.Detector
import qtools.vision.Network
import qtools.vision.toPicture

/** The camera's picture, and above it what the last frame shows, with a detector's boxes, and how long that took. */
class CameraActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor()
    private var network: Network? = null // the worker's alone
    private lateinit var preview: PreviewView
    private lateinit var boxes: BoxesView
    private lateinit var words: TextView

    private val permission = registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted ->
        if (granted) start() else words.text = "no camera without the permission"
    }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        preview = PreviewView(this) // fills the view with the middle of the camera's picture, and so do we
        boxes = BoxesView(this)
        words = TextView(this).apply {
            setTextColor(Color.WHITE)
            setBackgroundColor(Color.argb(160, 0, 0, 0))
            setPadding(32, 32, 32, 96)
        }
        val all = FrameLayout(this)
        all.addView(preview, FrameLayout.LayoutParams(MATCH_PARENT, MATCH_PARENT))
        all.addView(boxes, FrameLayout.LayoutParams(MATCH_PARENT, MATCH_PARENT))
        all.addView(words, FrameLayout.LayoutParams(MATCH_PARENT, WRAP_CONTENT, Gravity.BOTTOM))
        setContentView(all)
        worker.execute { network = Network.open(applicationContext) }
        permission.launch(Manifest.permission.CAMERA)
    }

    private fun start() {
        val controller = LifecycleCameraController(this)
        controller.setEnabledUseCases(CameraController.IMAGE_ANALYSIS)
        controller.setImageAnalysisAnalyzer(worker, ::answer) // frames that come while it computes are dropped
        controller.bindToLifecycle(this)
        preview.controller = controller
    }

    private fun answer(frame: ImageProxy) {
        val opened = network ?: return frame.close()
        val degrees = frame.imageInfo.rotationDegrees
        val shown = shown(frame).turned(degrees)
        val picture = frame.use { it.toBitmap().toPicture().turned(degrees) }
        val before = System.nanoTime()
        val (lines, marks) = answers(opened, picture, shown)
        val milliseconds = (System.nanoTime() - before) / 1_000_000
        runOnUiThread {
            words.text = (lines + "$milliseconds ms").joinToString("\n")
            boxes.marks = marks
        }
    }

    /** The likeliest classes; of a detector what it is sure of, and where the preview, which shows a part, has it. */
    private fun answers(opened: Network, picture: Picture, shown: Box): Pair<List<String>, List<Mark>> {
        val contract = opened.contract
        if (contract.decoding == null) {
            return Classifier(opened).classify(picture).map { line(it.probability, it.label, it.index) } to emptyList()
        }
        val marks = Detector(opened).detect(picture).filter { it.score >= SURE }.map {
            val whole = uncut(it.box, picture.height, picture.width, contract.preparation)
            Mark(line(it.score, it.label, it.index), it.index, whole.within(shown))
        }
        return marks.map { it.words } to marks
    }

    /**
     * The part of a frame, as it is stored, that the preview shows. Both are cut from the same field of the camera,
     * which the controller takes from the preview's size. (A front camera's preview is mirrored as well.)
     */
    private fun shown(frame: ImageProxy): Box {
        val (width, height) = frame.width.toDouble() to frame.height.toDouble()
        return frame.cropRect.let { Box(it.left / width, it.top / height, it.right / width, it.bottom / height) }
    }

    private fun line(share: Double, label: String, index: Int): String =
        "%.0f %%  %s".format(100 * share, label.ifEmpty { "class $index" })

    override fun onDestroy() {
        super.onDestroy()
        worker.execute { network?.close() } // behind a frame that is still computed
        worker.shutdown()
    }

    private companion object {
        const val SURE = 0.5
    }
}
